"""Every fault that an export can have, put in at random places: each is caught, none published."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import faults
from support.exported import recipe_in, small_run, stage, train
from support.faults import Fault, Tables, linked_copy, seal

from mmsr.bundle.errors import BundleError, MmsrError
from mmsr.bundle.repository import Repository
from mmsr.export import encoder_weights
from mmsr.export.build import Plan, Stages, prove_bundle
from mmsr.export.content_vectors import content_vectors
from mmsr.export.encoders import restore_encoder
from mmsr.export.folding import RowFolder
from mmsr.export.gate import ParityError
from mmsr.export.repo_cli import verify
from mmsr.export.tables import item_rows
from mmsr.training.checkpoint import folder_name, load_tensors, load_weights
from mmsr.training.run import TrainedRun
from mmsr.training.untrained import forget_untrained

SEEDS = 20


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A run, its good bundle, and tables that are not the bundle's."""

    run: TrainedRun
    good: Path
    previous: Tables  # of the epoch before the exported one
    another: Tables  # of a training by another seed


def tables_of(run: TrainedRun, checkpoint: Path) -> Tables:
    """Return the tables that an export of another checkpoint of the same data would write."""
    model = run.model.__class__(run.model.config, run.info.items, run.info.feature_widths)
    load_weights(model, load_tensors(checkpoint / "model.safetensors"), checkpoint)
    forget_untrained(model.item_encoder, run.split.train_counts(run.info.items))
    other = replace(run, model=model.eval())
    rows = item_rows(other)
    with torch.no_grad():
        inputs_NT = RowFolder(model)(rows.inputs_nW)
    return {
        "item_inputs": inputs_NT.numpy(),
        "item_outputs": rows.outputs_nD.numpy(),
        "content": content_vectors(other, torch.arange(run.info.items + 1)).numpy(),
        "ids": model.item_encoder.ids.weight.detach().numpy(),
    }


@pytest.fixture(scope="module", autouse=True)
def encoders_once() -> Iterator[None]:
    """Build each encoder once, and not for each of a few hundred exports."""
    built: dict[str, torch.nn.Module] = {}

    def restore(graph: str, spec: dict[str, Any]) -> torch.nn.Module:
        if graph not in built:
            built[graph] = restore_encoder(graph, spec)
        return built[graph]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder_weights, "restore_encoder", restore)
        yield


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("mutations")
    run = small_run(root)
    recipe, data = recipe_in(root), root / "data"
    epoch = int(run.checkpoint.name.rpartition("-")[2])
    shorter = replace(recipe, fit=replace(recipe.fit, epochs=epoch - 1))
    reseeded = replace(recipe, fit=replace(recipe.fit, epochs=epoch, seed=recipe.fit.seed + 1))
    previous = train(shorter, data, root / "shorter") / "checkpoints" / folder_name(epoch - 1)
    train(reseeded, data, root / "reseeded")
    [*_, another] = sorted((root / "reseeded/checkpoints").iterdir())
    return Exported(
        run=run,
        good=stage(run, root / "staged", root / "first"),
        previous=tables_of(run, previous),
        another=tables_of(run, another),
    )


def publish(run: TrainedRun, folder: Path, root: Path) -> Repository:
    """Do with a finished folder what `mmsr-export` does."""
    repository = Repository(root)
    with repository.stage() as staged:
        linked_copy(folder, staged)
        stages = Stages(tell=lambda _: None)
        prove_bundle(run, staged, Plan(), repository, stages)
        bundle_id = repository.publish(staged)
    repository.promote(bundle_id, "stable")
    return repository


def survivors(
    exported: Exported, fault: Fault, root: Path, *, as_converted: bool = False
) -> list[str]:
    """Return the faults of all seeds that were not caught, or that left something published."""
    found = []
    for seed in range(SEEDS):
        folder, repository = root / f"bad-{seed}", root / f"repository-{seed}"
        linked_copy(exported.good, folder)
        done = fault(folder, np.random.default_rng(seed))
        seal(folder, as_converted=as_converted)
        try:
            publish(exported.run, folder, repository)
        except MmsrError as error:
            message = str(error)
        else:
            message = ""
        left = [*repository.glob("versions/*"), *repository.glob("labels/*")]
        if left or not message or "\n" in message or [*repository.glob(".staging-*")]:
            found.append(f"seed {seed}: {done}: {message or 'published'}")
    return found


def in_graphs(names: tuple[str, ...], change: Callable[[Any, Any], str | None]) -> Fault:
    return lambda folder, random: faults.change_graph(folder, names, random, change)


def test_what_is_not_changed_is_published(exported: Exported, tmp_path: Path) -> None:
    repository = publish(exported.run, exported.good, tmp_path / "repository")
    assert [repository.resolve("stable").name] == repository.ids()


def test_tensors_in_a_file_of_their_own_are_published_too(
    exported: Exported, tmp_path: Path
) -> None:
    folder = linked_copy(exported.good, tmp_path / "external")
    for name in faults.ALL:
        faults.move_data_out(folder / name)
    seal(folder)
    assert publish(exported.run, folder, tmp_path / "repository").ids()


@pytest.mark.parametrize(
    ("names", "change"),
    [
        (faults.TRAINED, faults.flip_a_sign),
        (faults.TRAINED, faults.drop_a_bias),
        (faults.TRAINED, faults.swap_axes),
        (("image_encoder.onnx",), faults.exchange_colours),
        (faults.ALL, faults.drop_a_normalisation),
    ],
)
def test_a_wrong_conversion_is_caught_by_its_answers(
    exported: Exported,
    tmp_path: Path,
    names: tuple[str, ...],
    change: Callable[[Any, Any], str | None],
) -> None:
    """No hash tells: the conversion itself is what went wrong."""
    fault = in_graphs(names, change)
    assert not survivors(exported, fault, tmp_path, as_converted=True)


def test_only_encoders_that_read_the_same_are_not_measured_again(
    exported: Exported, tmp_path: Path
) -> None:
    """What an earlier bundle has measured says nothing of another graph or tokenizer."""
    repository = publish(exported.run, exported.good, tmp_path / "repository")
    [bundle_id] = repository.ids()
    assert repository.manifest(bundle_id).parity["image_measured_in"] is None
    publish(exported.run, exported.good, repository.root)
    again = repository.manifest(bundle_id).parity
    assert again["image_measured_in"] == again["text_measured_in"] == bundle_id
    for name, change in (
        ("image_encoder.onnx", faults.exchange_colours),
        ("text_encoder.onnx", faults.drop_a_normalisation),
    ):
        folder = linked_copy(exported.good, tmp_path / name)
        in_graphs((name,), change)(folder, np.random.default_rng(0))
        seal(folder, as_converted=True)
        with pytest.raises(ParityError, match=name):
            publish(exported.run, folder, repository.root)
    assert repository.ids() == [bundle_id]


def any_weight(folder: Path, random: np.random.Generator) -> str:
    """Turn any number but zero of any graph, whether it is felt or not."""
    import onnx

    while True:
        path = folder / faults.ALL[random.integers(len(faults.ALL))]
        model = onnx.load(path)
        done = faults.flip_a_sign(model.graph, random)
        if done is not None:
            path.unlink()
            path.write_bytes(model.SerializeToString())
            return f"{path.name}: {done}"


def test_any_weight_that_changes_after_the_conversion_is_caught(
    exported: Exported, tmp_path: Path
) -> None:
    """Even one whose change no answer shows: a stale or damaged file."""
    assert not survivors(exported, any_weight, tmp_path)


@pytest.mark.parametrize("graph", ["image_encoder", "text_encoder"])
def test_an_encoders_weight_is_caught_though_neither_a_hash_nor_an_answer_shows_it(
    exported: Exported, tmp_path: Path, graph: str
) -> None:
    """The manifest says of the wrong graph that it is what was converted."""

    def nudge(folder: Path, random: np.random.Generator) -> str:
        import onnx

        path = folder / f"{graph}.onnx"
        model = onnx.load(path)
        done = faults.nudge_a_weight(model.graph, random)
        path.unlink()
        path.write_bytes(model.SerializeToString())
        return done

    assert not survivors(exported, nudge, tmp_path, as_converted=True)
    folder = linked_copy(exported.good, tmp_path / "bad")
    done = nudge(folder, np.random.default_rng(0))
    seal(folder, as_converted=True)
    with pytest.raises(ParityError, match=rf"{graph}\.onnx: {done} is not what the encoder's"):
        publish(exported.run, folder, tmp_path / "repository")


@pytest.mark.parametrize("which", ["previous", "another"])
def test_rows_of_another_epoch_or_checkpoint_are_caught(
    exported: Exported, tmp_path: Path, which: str
) -> None:
    assert not survivors(exported, faults.rows_of(getattr(exported, which)), tmp_path)


@pytest.mark.parametrize(
    "fault",
    [
        *(faults.swap_catalogue_rows, faults.switch_items_off),
        *(faults.cut_external_data, faults.take_another_tokenizer),
        faults.misstate,
    ],
)
def test_a_wrong_file_is_caught(exported: Exported, tmp_path: Path, fault: Fault) -> None:
    assert not survivors(exported, fault, tmp_path)


def test_verify_puts_a_published_bundle_through_the_whole_gate_again(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = publish(exported.run, exported.good, tmp_path / "repository")
    [bundle_id] = repository.ids()
    run = exported.run.checkpoint.parents[1]
    verify(repository.root, bundle_id, run)
    rows = exported.run.info.items + 1
    assert f"all {rows} rows" in capsys.readouterr().out
    other = run.parent / "reseeded"
    with pytest.raises(BundleError, match=r"(?s)tables/item_inputs\.npy differs|checkpoint"):
        verify(repository.root, bundle_id, other)
