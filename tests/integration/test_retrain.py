"""A night that brings other weights alone: nothing is converted, everything is compared."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from support.faults import linked_copy, seal
from support.small_features import write_features
from support.small_shop import write_shop
from torch import nn

from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import load_manifest
from mmsr.bundle.repository import Repository
from mmsr.export.build import Plan, Stages, prove_bundle, publish_run, write_bundle
from mmsr.export.gate import ParityError
from mmsr.export.onnx_file import Conversion, Port
from mmsr.export.quality import Policy, QualityError, QualityReport
from mmsr.export.refusal import failure_json
from mmsr.export.template import Template
from mmsr.export.template_store import TemplateStore
from mmsr.export.trained_graphs import CONVERSIONS, STRUCTURE, write_trained
from mmsr.export.triton import StagedTriton, TritonModel
from mmsr.training.config import parse_recipe
from mmsr.training.fit import Hooks
from mmsr.training.model import SequentialRecommender
from mmsr.training.run import TrainedRun, open_run, start_run

GRAPHS = ("sequence", "explain", "item")
PLAN = Plan(policy=Policy(accept_drop=True))  # one epoch beats nobody


@dataclass(frozen=True, kw_only=True)
class Nights:
    """The second night's run and staged bundle, and the repository after the first."""

    second: TrainedRun
    repository: Repository
    reused: Path


def quiet() -> Stages:
    return Stages(tell=lambda _: None)


def retrained(run: TrainedRun, seed: int) -> TrainedRun:
    """Return the run with other weights, all of them felt."""
    random = torch.Generator().manual_seed(seed)
    model = SequentialRecommender(run.model.config, run.info.items, run.info.feature_widths)
    model.load_state_dict(run.model.state_dict())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name != "item_encoder.ids.weight":  # some of its rows are unknown ids: alike
                weight.add_(0.3 * torch.randn(weight.shape, generator=random))
    model.item_encoder.untrained_are_forgotten = run.model.item_encoder.untrained_are_forgotten
    return replace(run, model=model.eval())


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("nights")
    shop = write_features(write_shop(root / "data"), "text")
    model = {"sources": ["id", "position", "text"], "width": 8, "side_width": 8, "max_length": 8}
    recipe = parse_recipe(
        {"model": {**model, "blocks": 1, "feedforward_width": 8}, "fit": {"epochs": 1}}, "c.toml"
    )
    hooks = Hooks(step=lambda *_: None, epoch=lambda _: None)
    start_run(recipe, shop, root / "run", resume=False).run(root / "run", hooks)
    run = open_run(root / "run", device=torch.device("cpu"))
    run = replace(run, info=replace(run.info, features={}))  # made-up texts have no encoder
    first, second = retrained(run, 1), retrained(run, 2)
    repository = Repository(root / "repository")
    publish_run(first, PLAN, repository, quiet())
    (root / "reused").mkdir()
    write_bundle(second, root / "reused", "real", repository, quiet())
    return Nights(second=second, repository=repository, reused=root / "reused")


@pytest.fixture
def templates(nights: Nights) -> Iterator[Path]:
    """Give the templates, which are put back."""
    folder = TemplateStore(root=nights.repository.root).folder
    before = {path: path.read_bytes() for path in folder.iterdir()}
    yield folder
    for path in folder.iterdir():
        path.unlink()
    for path, content in before.items():
        path.write_bytes(content)


@pytest.mark.parametrize("good", [True, False])
def test_a_label_that_moves_while_tritons_models_are_put_in_place_has_them_judged_again(
    nights: Nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: bool
) -> None:
    first = nights.repository.resolve("stable")
    repository = Repository(tmp_path / "repository")
    repository.create()
    with repository.stage() as staged:
        linked_copy(first, staged)
        live = repository.publish(staged, "stable")
    with repository.stage() as staged:
        linked_copy(first, staged)
        replace(load_manifest(staged), model={"name": "moved to"}).save(staged)
        moved_to = repository.publish(staged)
    put = StagedTriton.put_in_place

    def meanwhile(self: StagedTriton, folder: Path) -> list[TritonModel]:
        repository.promote(moved_to, "stable")
        return put(self, folder)

    monkeypatch.setattr(StagedTriton, "put_in_place", meanwhile)
    plan = replace(PLAN, triton=tmp_path / "triton")
    if good:
        new, proven = publish_run(nights.second, plan, repository, quiet())
        assert proven.quality.live is not None
        assert proven.quality.live.bundle_id == moved_to
        assert [m.bundle_id for m in repository.history("stable")] == [live, moved_to, new]
        return
    judged = QualityReport.check

    def refuse(report: QualityReport) -> None:
        judged(report)
        if report.live is not None and report.live.bundle_id == moved_to:
            raise QualityError("too low")

    monkeypatch.setattr(QualityReport, "check", refuse)
    told = "published and Triton's models are in place, but label 'stable' was moved .* too low"
    with pytest.raises(BundleError, match=told):
        publish_run(nights.second, plan, repository, quiet())
    assert [m.bundle_id for m in repository.history("stable")] == [live, moved_to]


def test_what_files_hold_is_told_where_they_alone_are_refused(
    nights: Nights, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    linked_copy(nights.reused, folder)
    path = folder / "item.onnx"
    model = onnx.load(path)
    [bias] = [t for t in model.graph.initializer if t.name.endswith("text.project.bias")]
    bias.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(bias), bias.name))
    path.unlink()
    onnx.save(model, path)
    seal(folder)
    with pytest.raises(ParityError) as caught:
        prove_bundle(nights.second, folder, PLAN, nights.repository, quiet())
    told = failure_json(caught.value)
    assert told is not None
    assert told["exit_code"] == 4
    assert told["parity"]["stored"]["wrong_weights"] == {"item.onnx": bias.name}


def test_a_graph_of_whose_weights_nothing_is_recorded_is_refused(
    nights: Nights, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    linked_copy(nights.reused, folder)
    manifest = load_manifest(folder)
    weights = {name: w for name, w in manifest.provenance["weights"].items() if name != "sequence"}
    replace(manifest, provenance=manifest.provenance | {"weights": weights}).save(folder)
    with pytest.raises(ParityError, match=r"sequence\.onnx: what it holds, of which nothing is"):
        prove_bundle(nights.second, folder, PLAN, nights.repository, quiet())


@pytest.mark.parametrize("with_triton", [False, True])
def test_a_label_that_moves_during_an_export_has_the_candidate_judged_again(
    nights: Nights, tmp_path: Path, with_triton: bool
) -> None:
    first = nights.repository.resolve("stable")
    repository = Repository(tmp_path / "repository")
    repository.create()
    for name in ("live", "moved to"):
        with repository.stage() as staged:
            linked_copy(first, staged)
            replace(load_manifest(staged), model={"name": name}).save(staged)
            repository.publish(staged, "stable")
    live, moved_to = repository.ids()
    repository.promote(live, "stable")
    told: list[str] = []

    def tell(stage: str) -> None:
        told.append(stage)
        if told.count("publish") == 1:
            repository.promote(moved_to, "stable")

    plan = replace(PLAN, triton=tmp_path / "triton" if with_triton else None)
    new, proven = publish_run(nights.second, plan, repository, Stages(tell=tell))
    assert (told.count("quality"), told.count("publish"), told.count("parity")) == (2, 1, 1)
    assert proven.quality.live is not None
    assert proven.quality.live.bundle_id == moved_to
    judged = repository.manifest(new).provenance["quality"]
    assert judged["live"]["bundle_id"] == moved_to
    assert [m.bundle_id for m in repository.history("stable")][-2:] == [moved_to, new]


def test_the_second_night_converts_nothing(nights: Nights) -> None:
    [bundle_id] = nights.repository.ids()
    first, second = (
        load_manifest(folder).provenance
        for folder in (nights.repository.path(bundle_id), nights.reused)
    )
    assert (first["reused"], second["reused"]) == ([], ["sequence", "item", "explain"])
    assert first["weights"] == second["weights"]
    assert all(first["initializers"][g] != second["initializers"][g] for g in GRAPHS)


@pytest.mark.parametrize("graph", GRAPHS)
def test_what_is_written_is_what_a_conversion_of_the_trained_model_gives(
    nights: Nights, tmp_path: Path, graph: str
) -> None:
    """Nothing hangs on the random numbers that a template is made with."""
    path = tmp_path / f"{graph}.onnx"
    CONVERSIONS[graph](nights.second.model, folded=True).write(path)
    assert path.read_bytes() == (nights.reused / path.name).read_bytes()


def test_what_was_reused_passes_the_gate_and_is_published(nights: Nights, tmp_path: Path) -> None:
    linked_copy(nights.repository.root, tmp_path / "repository")
    repository = Repository(tmp_path / "repository")
    bundle_id, _ = publish_run(nights.second, PLAN, repository, quiet())
    manifest = repository.manifest(bundle_id)
    assert manifest.provenance["reused"] == ["sequence", "item", "explain"]
    assert repository.resolve("stable").name == bundle_id == load_manifest(nights.reused).bundle_id


def test_a_recipe_that_recommends_again_says_so_to_the_server(
    nights: Nights, tmp_path: Path
) -> None:
    recipe = nights.second.info.recipe
    assert load_manifest(nights.reused).exclude_seen is recipe.serving.exclude_seen is True
    again = replace(recipe, serving=replace(recipe.serving, exclude_seen=False))
    run = replace(nights.second, info=replace(nights.second.info, recipe=again))
    write_bundle(run, tmp_path, "real", nights.repository, quiet())
    assert load_manifest(tmp_path).exclude_seen is False
    assert load_manifest(tmp_path).bundle_id != load_manifest(nights.reused).bundle_id


def swapped(template: Template) -> Template:
    """Return the template with two square matrices of the same size mistaken for each other."""
    dims = {t.name: tuple(t.dims) for t in template.graph.graph.initializer}
    square = [name for name in template.sources if dims[name] == (8, 8)]
    one, other = square[0], square[-1]
    assert one != other
    exchanged = {one: template.sources[other], other: template.sources[one]}
    return replace(template, sources=template.sources | exchanged)


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_wrong_map_is_caught_by_the_answers_and_nothing_is_published(
    nights: Nights, templates: Path, graph: str
) -> None:
    store = TemplateStore(root=nights.repository.root)
    [path] = templates.glob(f"{graph}-*")
    good = Template.from_bytes(path.read_bytes())
    path.unlink()
    store.save(graph, path.name.split("-")[1], swapped(good), templates / ".spare")
    before = nights.repository.ids(), nights.repository.history("stable")
    with pytest.raises(ParityError, match=rf"{graph}\.onnx|does not answer"):
        publish_run(nights.second, PLAN, nights.repository, quiet())
    assert (nights.repository.ids(), nights.repository.history("stable")) == before


def refused(nights: Nights, folder: Path, change: Any) -> str:
    """Change item.onnx and all that the manifest says of its bytes; return why it is refused."""
    linked_copy(nights.reused, folder)
    weights = load_manifest(folder).provenance["weights"]
    path = folder / "item.onnx"
    model = onnx.load(path)
    change(model.graph)
    path.unlink()
    onnx.save(model, path)
    seal(folder, as_converted=True)
    manifest = load_manifest(folder)
    replace(manifest, provenance=manifest.provenance | {"weights": weights}).save(folder)
    with pytest.raises(ParityError) as caught:
        prove_bundle(nights.second, folder, PLAN, nights.repository, quiet())
    return str(caught.value)


def test_a_weight_that_no_answer_would_show_is_caught_by_comparison_with_the_checkpoint(
    nights: Nights, tmp_path: Path
) -> None:
    """Also where every hash in the manifest is that of the wrong graph."""

    def nudge(graph: Any) -> None:
        [tensor] = [t for t in graph.initializer if t.name.endswith("text.project.bias")]
        array = numpy_helper.to_array(tensor).copy()
        array[0] += 1e-7 * max(1.0, abs(float(array[0])))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    message = refused(nights, tmp_path / "nudged", nudge)
    assert "text.project.bias is not what the checkpoint gives" in message


def test_a_constant_that_no_answer_would_show_is_caught(nights: Nights, tmp_path: Path) -> None:
    def nudge(graph: Any) -> None:
        norms = [node for node in graph.node if node.op_type == "LayerNormalization"]
        [epsilon] = [a for a in norms[0].attribute if a.name == "epsilon"]
        epsilon.f *= 1.0001

    assert f"item.onnx: {STRUCTURE}" in refused(nights, tmp_path / "nudged", nudge)


def test_a_fresh_export_converts_all_the_same(
    nights: Nights, templates: Path, tmp_path: Path
) -> None:
    before = sorted(templates.iterdir())
    store = TemplateStore(root=nights.repository.root, fresh=True)
    target = tmp_path / "item.onnx"
    assert not write_trained("item", nights.second.model, target, store, folded=True).reused
    assert target.read_bytes() == (nights.reused / "item.onnx").read_bytes()
    assert sorted(templates.iterdir()) == before  # the same template again


class Product(nn.Module):
    """Two matrices that the converter may multiply beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Parameter(torch.rand(3, 3)), nn.Parameter(torch.rand(3, 3))

    def forward(self, x_B3: torch.Tensor) -> torch.Tensor:
        """Return [B, 3]."""
        return x_B3 @ (self.one @ self.other)


def product_conversion(model: SequentialRecommender, *, folded: bool) -> Conversion:
    """Return what has nothing of the model in it."""
    ports = [Port(name="x", example=torch.rand(2, 3), dynamic={0: "B"})]
    return Conversion(module=Product(), ports=ports, outputs=["y"])


def test_weights_that_are_folded_into_constants_are_converted_each_time(
    nights: Nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = tmp_path / "item.onnx", TemplateStore(root=tmp_path)
    monkeypatch.setitem(CONVERSIONS, "item", product_conversion)
    written = write_trained("item", nights.second.model, path, store, folded=True)
    assert (written.weights, written.reused) == (None, False)
    assert len(onnx.load(path).graph.initializer) == 1
    assert not store.folder.exists()
