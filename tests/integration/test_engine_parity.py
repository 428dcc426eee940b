"""An engine is asked before it is kept: one that answers otherwise than its graph is refused.

The bundle is an export's own, its encoders small and whole. TensorRT's part is played by ONNX
Runtime behind the real TensorRT runner: it computes the half-precision graph that the engine is
built from, sound or damaged, within the profiles of the engine.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.exported import small_run, stage
from support.fake_device import FakeDevice, FakeEngine

from mmsr.bundle.manifest import GraphSpec
from mmsr.bundle.repository import Repository
from mmsr.engine.errors import DeviceFailed
from mmsr.engine.opened import OpenedBundle, open_bundle
from mmsr.engine.runners.engine_files import EngineFile, find_engines, steps_of
from mmsr.engine.runners.tensorrt import TensorRTRunner
from mmsr.export.onnx_file import describe
from mmsr.export.tensorrt import engines
from mmsr.export.tensorrt.builder import BuildRequest, BuiltEngine
from mmsr.export.tensorrt.compare import EngineParityError
from mmsr.export.tensorrt.engines import EngineChoice, Precision, build_engines
from mmsr.export.tensorrt.flavour import Flavour, Gpu, TensorRTError
from mmsr.export.tensorrt.profiles import Buckets

GRAPHS = ("sequence", "item", "image_encoder", "text_encoder")
GPU = Gpu(name="NVIDIA H200", sm="sm90")
FLAVOUR = Flavour(name="tensorrt", version="11.4", module=None)
Damage = Callable[[onnx.ModelProto], None]


@dataclass(kw_only=True)
class Shop:
    """An exported bundle, and engines of it that are played."""

    repository: Repository
    bundle: OpenedBundle
    spare: Path
    damage: Damage | None = None  # done to the graph of an engine that is loaded
    damaged: str = ""
    opened: list[str] = field(default_factory=list)

    def build(self, *graphs: str, precision: Precision = "fp16") -> dict[str, Any]:
        """Build, compare and keep the engines of some graphs; return what engine.json says."""
        choice = EngineChoice(
            flavour=FLAVOUR,
            gpu=GPU,
            precision=precision,
            buckets=Buckets(sequence=(1, 8), image=(1, 8), text=(4,)),
            graphs=graphs or None,
            open_engine=self.open,
        )
        folder, _ = build_engines(
            self.repository, self.bundle.folder.name, choice, lambda *step: None
        )
        found: dict[str, Any] = json.loads((folder / "engine.json").read_text())
        return found

    def open(self, file: EngineFile, spec: GraphSpec) -> TensorRTRunner:
        """Return the real runner of an engine that a fake device plays."""
        graph = file.path.stem
        self.opened.append(graph)
        path = self.spare / f"{graph}.onnx"
        path.write_bytes(file.read())  # what was built: see `play_builder`
        model = onnx.load(path)
        if self.damage is not None and graph == self.damaged:
            self.damage(model)
            onnx.save(model, path)
        profiles = [
            {name: (sizes["least"], sizes["most"]) for name, sizes in profile.items()}
            for profile in file.profiles
        ]
        device = FakeDevice()
        engine = FakeEngine(path, describe(path), profiles, device)
        return TensorRTRunner(engine, spec, steps_of(file), device, name=str(file))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("engine-parity")
    repository = Repository(root / "repository")
    with repository.stage() as staged:
        repository.publish(stage(small_run(root), staged / "bundle", repository.root))
    return repository.root


@pytest.fixture
def shop(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    def play_builder(request: BuildRequest, flavour: Flavour, tell: Any) -> BuiltEngine:
        return BuiltEngine(plan=request.onnx.read_bytes(), seconds=0.5)

    monkeypatch.setattr(engines, "build_engine", play_builder)
    repository = Repository(published)
    (bundle_id,) = repository.ids()
    bundle = open_bundle(repository.path(bundle_id))
    return Shop(repository=repository, bundle=bundle, spare=tmp_path)


def weights_of(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return the matrices and kernels, the largest first."""
    halves = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    found = [t for t in model.graph.initializer if t.data_type in halves and len(t.dims) > 1]
    return sorted(found, key=lambda tensor: -int(np.prod(tensor.dims)))


def flipped(place: int) -> Damage:
    """Return what gives a weight another sign, by its place among the larger ones."""

    def damage(model: onnx.ModelProto) -> None:
        tensor = weights_of(model)[place]
        values = -numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return damage


def constant(model: onnx.ModelProto) -> None:
    """Let every weight be zero: whatever comes in, the same goes out."""
    for tensor in weights_of(model):
        values = np.zeros_like(numpy_helper.to_array(tensor))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def not_a_number(model: onnx.ModelProto) -> None:
    tensor = weights_of(model)[0]
    values = np.full_like(numpy_helper.to_array(tensor), np.nan)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def test_sound_engines_are_kept_with_what_was_measured_and_are_then_served(shop: Shop) -> None:
    precisions: tuple[Precision, ...] = ("fp16", "fp32")
    for precision in precisions:
        found = shop.build(*GRAPHS, precision=precision)
        assert found["parity"] == {"proven": True, "reason": None}
        measured = {graph: entry["parity"] for graph, entry in found["engines"].items()}
        assert measured.keys() == set(GRAPHS)
        assert measured["sequence"]["overlap"] == 1.0
        assert measured["sequence"]["users"] > 20
        for graph in GRAPHS[1:]:
            assert measured[graph]["min_cosine"] > 0.9999
            assert measured[graph]["samples"] >= 32
            assert measured[graph]["of_spread"] < (0.01 if precision == "fp16" else 1e-4)
        (file,) = find_engines(shop.bundle.folder, "image_encoder")
        assert (file.proven_on, file.precision) == (GPU.sm, precision)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("place", range(3))
def test_a_damaged_engine_is_refused_in_one_line_and_nothing_is_changed(
    graph: str, place: int, shop: Shop
) -> None:
    before = shop.build("sequence")
    shop.damaged, shop.damage = graph, flipped(place)
    with pytest.raises(EngineParityError, match=f"{graph}: the engine by tensorrt 11.4") as caught:
        shop.build(*GRAPHS)
    said = str(caught.value)
    assert "\n" not in said
    assert "no engine was kept or replaced; build with --precision fp32, or the other" in said
    folder = shop.repository.root / "engines" / shop.bundle.folder.name
    assert json.loads((folder / "tensorrt-11.4-sm90" / "engine.json").read_text()) == before
    assert not list(shop.repository.root.glob(".staging-*"))


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("damage", [constant, not_a_number])
def test_what_looks_at_nothing_or_answers_no_numbers_is_refused(
    graph: str, damage: Damage, shop: Shop
) -> None:
    shop.damaged, shop.damage = graph, damage
    with pytest.raises(EngineParityError, match=graph):
        shop.build(graph)


def test_an_engine_that_mixes_the_rows_of_a_batch_is_refused(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row is then a feature as good as any, only not that of its picture."""
    run = TensorRTRunner.run

    def turned(self: TensorRTRunner, batch: Any) -> dict[str, Any]:
        return {name: np.roll(array, 1, axis=0) for name, array in run(self, batch).items()}

    monkeypatch.setattr(TensorRTRunner, "run", turned)
    with pytest.raises(EngineParityError, match=r"image_encoder: .* of the samples' own spread"):
        shop.build("image_encoder")


def test_an_engine_that_this_gpu_does_not_load_is_one_error(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Shop, file: EngineFile, spec: GraphSpec) -> TensorRTRunner:
        raise DeviceFailed("the engine is not loaded: no kernel for sm90")

    monkeypatch.setattr(Shop, "open", refuse)
    with pytest.raises(TensorRTError, match=r"item: the engine is not loaded: .*replaced"):
        shop.build("item")


def test_nobody_serves_engines_of_items_or_explanations_so_none_is_built_unasked(
    shop: Shop,
) -> None:
    assert shop.build()["engines"].keys() == {"sequence", "image_encoder", "text_encoder"}
    assert shop.opened == ["sequence", "image_encoder", "text_encoder"]
    with pytest.raises(TensorRTError, match="no engine of the graph 'explain' would be used"):
        shop.build("sequence", "explain")
