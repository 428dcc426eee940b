"""Training on a small shop: it learns, stops, resumes as if never stopped, refuses bad input."""

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.small_features import write_features
from support.small_shop import shop_recipe, write_shop

import mmsr.training.run as run_module
from mmsr.bundle.errors import MmsrError
from mmsr.training.checkpoint import Progress, checkpoint_folder, load_run_info
from mmsr.training.config import Recipe, load_recipe
from mmsr.training.evaluate import model_ranks, popularity_ranks
from mmsr.training.fit import Hooks, TrainingDivergedError
from mmsr.training.fit_cli import fit as fit_command
from mmsr.training.items import ModalityEncoder
from mmsr.training.measure import MEASURED
from mmsr.training.metrics import summarise
from mmsr.training.plan import Padding
from mmsr.training.run import commits, open_run, start_run
from mmsr.training.split import leave_one_out

QUIET = Hooks(step=lambda done, steps, loss: None, epoch=lambda line: None)


class StoppedError(Exception):
    """Stands for kill -9 in the middle of an epoch."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(write_shop(tmp_path_factory.mktemp("shop") / "data"), "image", "text")


@pytest.fixture
def recipe(shop: Path, tmp_path: Path) -> Iterator[Recipe]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_recipe(shop_recipe(tmp_path))
    torch.set_num_threads(threads)


def fit(recipe: Recipe, shop: Path, out: Path, resume: bool = False) -> Progress:
    return start_run(recipe, shop, out, resume).run(out, QUIET)


@pytest.fixture(scope="module")
def done(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a whole run of the recipe, for tests that only look at it."""
    root = tmp_path_factory.mktemp("done")
    fit(load_recipe(shop_recipe(root)), shop, root / "run")
    return root / "run"


@pytest.fixture(scope="module")
def short(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of one epoch, to be copied."""
    root = tmp_path_factory.mktemp("short")
    fit(longer(load_recipe(shop_recipe(root)), 1), shop, root / "run")
    return root / "run"


def longer(recipe: Recipe, epochs: int) -> Recipe:
    return replace(recipe, fit=replace(recipe.fit, epochs=epochs, patience=epochs))


def weights(run: Path, which: str = "last") -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(
        checkpoint_folder(run, which) / "model.safetensors"
    )
    return tensors


def assert_same_weights(one: Path, other: Path) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def test_it_learns_the_ring_far_beyond_popularity(
    recipe: Recipe, shop: Path, tmp_path: Path
) -> None:
    progress = fit(longer(recipe, 10), shop, tmp_path / "run")
    assert progress.log[-1]["loss"] < progress.log[0]["loss"]
    trained = open_run(tmp_path / "run")
    split = leave_one_out(trained.dataset)
    ranks = model_ranks(trained.model, trained.content, split, "test")
    popular = popularity_ranks(split, "test", trained.info.items)
    ours, theirs = summarise(ranks["masked"]), summarise(popular["masked"])
    assert ours["ndcg@10"] > 2 * theirs["ndcg@10"]


def test_the_same_seed_gives_the_same_weights(
    recipe: Recipe, shop: Path, tmp_path: Path, done: Path
) -> None:
    fit(recipe, shop, tmp_path / "again")
    assert_same_weights(done, tmp_path / "again")


def test_a_resumed_run_ends_as_if_never_stopped(recipe: Recipe, shop: Path, tmp_path: Path) -> None:
    recipe = longer(recipe, 4)
    whole = fit(recipe, shop, tmp_path / "whole")

    def stop(done: int, steps: int, loss: float) -> None:
        if trainer.progress.epoch == 2 and done == 2:
            raise StoppedError

    trainer = start_run(recipe, shop, tmp_path / "stopped", resume=False)
    with pytest.raises(StoppedError):
        trainer.run(tmp_path / "stopped", Hooks(step=stop, epoch=lambda line: None))
    torch.manual_seed(999)  # whatever else the new process did before
    resumed = fit(recipe, shop, tmp_path / "stopped", resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")
    assert resumed.best_epoch == whole.best_epoch
    names = ("epoch", "loss", "validation.masked.ndcg@10", "validation.masked.recall@10")
    for line, other in zip(resumed.log, whole.log, strict=True):
        assert all(line[name] == other[name] for name in names)


def test_more_epochs_may_be_asked_for_on_resume(recipe: Recipe, shop: Path, tmp_path: Path) -> None:
    fit(longer(recipe, 2), shop, tmp_path / "run")
    assert fit(longer(recipe, 3), shop, tmp_path / "run", resume=True).epoch == 3


def test_it_stops_when_validation_gets_no_better(
    recipe: Recipe, shop: Path, tmp_path: Path
) -> None:
    recipe = replace(recipe, fit=replace(recipe.fit, epochs=50, patience=2, learning_rate=1e-9))
    progress = fit(recipe, shop, tmp_path / "run")
    assert progress.epoch < 50
    assert progress.epochs_without_gain() == 2
    best = checkpoint_folder(tmp_path / "run", "best")
    assert best.name == f"epoch-{progress.best_epoch:04d}"
    kept = sorted(p.name for p in best.parent.iterdir())
    assert kept == sorted({best.name, f"epoch-{progress.epoch:04d}"})


def test_a_loss_that_is_no_number_stops_with_the_last_checkpoint_kept(
    recipe: Recipe, shop: Path, tmp_path: Path
) -> None:
    fit(longer(recipe, 1), shop, tmp_path / "run")
    trainer = start_run(longer(recipe, 2), shop, tmp_path / "run", resume=True)
    with torch.no_grad():
        trainer.model.output_norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingDivergedError, match=r"became nan in epoch 2.*learning_rate"):
        trainer.run(tmp_path / "run", QUIET)
    assert checkpoint_folder(tmp_path / "run", "last").name == "epoch-0001"
    assert all(bool(t.isfinite().all()) for t in weights(tmp_path / "run").values())


@pytest.mark.parametrize("change", [{"learning_rate": 1e30}, {"learning_rate": 1e38, "epochs": 1}])
def test_an_absurd_learning_rate_is_said_and_leaves_nothing_bad_behind(
    recipe: Recipe, shop: Path, tmp_path: Path, change: dict[str, float]
) -> None:
    absurd = replace(recipe, fit=replace(recipe.fit, **change))  # type: ignore[arg-type]
    with pytest.raises(TrainingDivergedError, match=r"became .* in epoch 1; .*learning_rate") as no:
        fit(absurd, shop, tmp_path / "run")
    assert no.value.exit_code == 5
    assert not (tmp_path / "run" / "checkpoint.json").exists()


def test_weights_that_break_in_the_last_step_are_not_written(
    recipe: Recipe, shop: Path, tmp_path: Path
) -> None:
    """No later loss could tell of them."""
    fit(longer(recipe, 1), shop, tmp_path / "run")
    trainer = start_run(longer(recipe, 2), shop, tmp_path / "run", resume=True)

    def break_one(done: int, steps: int, loss: float) -> None:
        if done == steps:
            with torch.no_grad():
                trainer.model.output_norm.bias[0] = float("inf")

    hooks = Hooks(step=break_one, epoch=lambda line: None)
    with pytest.raises(TrainingDivergedError, match="a weight became infinite or no number"):
        trainer.run(tmp_path / "run", hooks)
    assert checkpoint_folder(tmp_path / "run", "last").name == "epoch-0001"


def test_speed_and_memory_are_logged_and_kept(recipe: Recipe, shop: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(longer(recipe, 2), shop, run)
    with (run / "log.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["epoch"] for line in lines] == ["1", "2"]
    for line in lines:
        expected = len(start_run(recipe, shop, tmp_path / "x", resume=True).windows)
        assert float(line["sequences_per_s"]) * float(line["train_s"]) == pytest.approx(
            expected, rel=0.05
        )
        assert 50 < float(line["peak_rss_mib"]) < 50_000
        assert float(line["learning_rate"]) == recipe.fit.learning_rate
    measured = load_run_info(run).provenance["measured"]
    assert measured["peak_rss_mib"] == max(float(line["peak_rss_mib"]) for line in lines)
    assert measured["sequences_per_s"] > 0
    fit(longer(recipe, 2), shop, run, resume=True)
    assert load_run_info(run).provenance["measured"] == measured


def test_features_are_centred_without_the_new_items(
    recipe: Recipe, shop: Path, tmp_path: Path
) -> None:
    recipe = replace(recipe, split=replace(recipe.split, cold_share=0.2))
    trainer = start_run(recipe, shop, tmp_path / "run", resume=False)
    text_NF, known_N = trainer.content.features["text"], trainer.content.present["text"].clone()
    known_N[trainer.split.cold_rows] = False
    encoder = trainer.model.item_encoder.modalities["text"]
    assert isinstance(encoder, ModalityEncoder)
    torch.testing.assert_close(encoder.mean_F, text_NF[known_N].mean(0))
    assert not torch.allclose(text_NF[trainer.content.present["text"]].mean(0), encoder.mean_F)


def test_bfloat16_learns_too(recipe: Recipe, shop: Path, tmp_path: Path) -> None:
    low = replace(recipe, fit=replace(recipe.fit, precision="bf16"))
    progress = fit(longer(low, 3), shop, tmp_path / "run")
    assert progress.log[-1]["loss"] < 0.95 * progress.log[0]["loss"]
    assert all(t.dtype == torch.float32 for t in weights(tmp_path / "run").values())
    exact = fit(longer(recipe, 1), shop, tmp_path / "exact")
    assert progress.log[0]["loss"] == pytest.approx(exact.log[0]["loss"], rel=0.02)
    assert progress.log[0]["loss"] != exact.log[0]["loss"]


def test_padding_for_a_compiled_model_changes_nothing_that_is_learned(
    recipe: Recipe, shop: Path, tmp_path: Path
) -> None:
    dropouts = ("dropout", "attention_dropout", "modality_dropout", "id_dropout")
    model = replace(recipe.model, **dict.fromkeys(dropouts, 0.0))  # type: ignore[arg-type]
    recipe = replace(longer(recipe, 2), model=model)
    fit(recipe, shop, tmp_path / "plain")
    trainer = start_run(recipe, shop, tmp_path / "padded", resume=False)
    trainer.planner = replace(
        trainer.planner, padding=Padding(histories=recipe.fit.batch_size, lengths=(4, 8))
    )
    shapes = set()
    trainer.model.register_forward_pre_hook(lambda module, args: shapes.add(args[1].shape))
    trainer.run(tmp_path / "padded", QUIET)
    assert shapes <= {(16, 4), (16, 8)}
    one, other = weights(tmp_path / "plain"), weights(tmp_path / "padded")
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-4, rtol=0, msg=name)


def test_resume_begins_a_run_that_was_stopped_before_it_was_one(
    recipe: Recipe, shop: Path, tmp_path: Path, done: Path
) -> None:
    fit(recipe, shop, tmp_path / "resumed", resume=True)
    assert_same_weights(done, tmp_path / "resumed")


def test_an_existing_run_is_not_overwritten(recipe: Recipe, shop: Path, done: Path) -> None:
    with pytest.raises(MmsrError, match="holds a run already; go on with it by --resume"):
        start_run(recipe, shop, done, resume=False)


def test_resume_refuses_another_recipe_and_names_the_key(
    recipe: Recipe, shop: Path, done: Path
) -> None:
    other = replace(recipe, model=replace(recipe.model, dropout=0.4))
    with pytest.raises(MmsrError, match=r"differs in \[model\] dropout"):
        start_run(other, shop, done, resume=True)


def test_other_data_are_refused(done: Path, tmp_path: Path) -> None:
    other = write_features(write_shop(tmp_path / "other", seed=1), "image", "text")
    with pytest.raises(MmsrError, match="was trained on data small-shop-0"):
        open_run(done, other)


def test_other_features_are_refused_though_the_data_are_the_same(
    shop: Path, tmp_path: Path, done: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(shop, data)
    open_run(done, data)
    path = data / "features" / "text.npy"
    np.save(path, np.load(path) + 1)
    with pytest.raises(MmsrError, match=r"trained on other features \(text\)"):
        open_run(done, data)


@pytest.mark.parametrize("damage", ["cut", "other shape", "missing", "no pointer"])
def test_a_damaged_checkpoint_is_one_clear_error(short: Path, tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(short, run)
    path = checkpoint_folder(run, "best") / "model.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "other shape":
        info = json.loads((run / "run.json").read_text())
        info["recipe"]["model"]["width"] = 32
        (run / "run.json").write_text(json.dumps(info))
    elif damage == "missing":
        path.unlink()
    else:
        (run / "checkpoint.json").unlink()
    with pytest.raises(MmsrError, match=r"run|train"):
        open_run(run)


def test_a_folder_that_is_no_run_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(MmsrError, match="mmsr-train fit"):
        open_run(tmp_path)


def test_sources_can_be_left_out_one_by_one(recipe: Recipe, shop: Path, tmp_path: Path) -> None:
    for sources in (("id",), ("id", "position"), ("id", "text"), ("id", "position", "category")):
        out = tmp_path / "-".join(sources)
        only = replace(longer(recipe, 1), model=replace(recipe.model, sources=sources))
        fit(only, shop, out)
        names = {n.split(".")[2] for n in weights(out) if n.startswith("item_encoder.modalities")}
        assert names == set(sources) - {"id", "position"}


def test_a_run_remembers_what_it_was_made_with(recipe: Recipe, shop: Path, tmp_path: Path) -> None:
    fit(longer(recipe, 1), shop, tmp_path / "run")
    info = load_run_info(tmp_path / "run")
    assert info.recipe == longer(recipe, 1)
    assert Path(info.data_folder) == shop.resolve()
    assert info.features["image"]["encoder"] == "made up"
    assert info.provenance["versions"]["torch"] == torch.__version__.partition("+")[0]
    shutil.rmtree(tmp_path / "run")


def test_a_resumed_run_remembers_every_commit_that_it_was_trained_at(
    recipe: Recipe, shop: Path, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(short, run)
    first = load_run_info(run).provenance
    for epochs, commit in ((2, "bbbbbbb"), (3, "bbbbbbb"), (4, "ccccccc")):
        now = {**first, "commit": commit}
        now.pop(MEASURED)
        monkeypatch.setattr(run_module, "provenance", lambda now=now: now)
        fit(longer(recipe, epochs), shop, run, resume=True)
    found = load_run_info(run).provenance
    assert [(e["commit"], e["last_epoch"]) for e in found["earlier"]] == [
        (first["commit"], 1),
        ("bbbbbbb", 3),
    ]
    assert found["commit"] == "ccccccc"
    assert commits(found) == f"{first['commit']}, bbbbbbb, ccccccc"
    assert found[MEASURED]["sequences_per_s"] > 0


def test_a_gradient_longer_than_the_limit_is_cut_to_it(
    recipe: Recipe, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradient(clip_norm: float, out: Path) -> torch.Tensor:
        limited = replace(recipe, fit=replace(recipe.fit, clip_norm=clip_norm))
        trainer = start_run(limited, shop, out, resume=False)
        monkeypatch.setattr(trainer.optimizer, "step", lambda: None)
        trainer._step(next(trainer._plans()))
        parameters = [p for group in trainer.optimizer.param_groups for p in group["params"]]
        return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])

    whole, cut = gradient(1e9, tmp_path / "whole"), gradient(0.01, tmp_path / "cut")
    assert float(whole.norm()) > 0.02
    torch.testing.assert_close(cut, whole * (0.01 / whole.norm()), rtol=1e-3, atol=1e-9)


def test_a_shop_that_recommends_again_selects_by_the_ranking_that_it_serves(
    recipe: Recipe, shop: Path, tmp_path: Path
) -> None:
    again = replace(recipe, serving=replace(recipe.serving, exclude_seen=False))
    progress = fit(again, shop, tmp_path / "again")
    served = [line["validation.unmasked.ndcg@10"] for line in progress.log]
    assert progress.best_ndcg == max(served)
    assert progress.best_epoch == served.index(max(served)) + 1
    assert all("validation.masked.ndcg@10" in line for line in progress.log)
    usual = fit(recipe, shop, tmp_path / "usual")
    assert not any("validation.unmasked.ndcg@10" in line for line in usual.log)
    masked = [line["validation.masked.ndcg@10"] for line in usual.log]
    assert masked == [line["validation.masked.ndcg@10"] for line in progress.log]
    assert usual.best_ndcg == max(masked)


def test_ids_and_categories_alone_need_no_features(recipe: Recipe, tmp_path: Path) -> None:
    data = write_shop(tmp_path / "plain")
    model = replace(recipe.model, sources=("id", "position", "category"))
    assert fit(replace(recipe, model=model), data, tmp_path / "run").epoch > 0
    with pytest.raises(MmsrError, match="has no features"):
        fit(recipe, data, tmp_path / "other")


def test_the_command_that_is_missing_names_this_recipe(tmp_path: Path) -> None:
    data, recipe = write_shop(tmp_path / "plain"), shop_recipe(tmp_path)
    with pytest.raises(MmsrError) as caught:
        fit_command(recipe, data, tmp_path / "run")
    assert str(caught.value).endswith(f"run: mmsr-train features {data} --config {recipe}")
