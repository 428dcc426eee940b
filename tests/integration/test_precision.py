"""An export in less than fp32: through the gate, and through the model that serves."""

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.exported import stage
from support.small_features import write_features
from support.small_shop import write_shop

from mmsr.bundle.manifest import describe_files, load_manifest
from mmsr.engine.model import RowRequest, open_model
from mmsr.engine.opened import open_bundle
from mmsr.export.choose_precision import prove_in_precision
from mmsr.export.gate import GateReport, ParityError, measure
from mmsr.export.trained_graphs import STRUCTURE, wrong_weights
from mmsr.export.variants import PRECISIONS
from mmsr.training.config import parse_recipe
from mmsr.training.fit import Hooks
from mmsr.training.run import TrainedRun, open_run, start_run

Staged = tuple[TrainedRun, Path]
RTOL = 1e-4


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Staged:
    """Return a short run and its staged fp32 bundle."""
    root = tmp_path_factory.mktemp("precision")
    shop = write_features(write_shop(root / "data"), "text")
    model = {"sources": ["id", "position", "text"], "width": 32, "side_width": 32}
    model |= {"max_length": 8, "blocks": 1}  # wide enough that half of it tells neighbours apart
    recipe = parse_recipe({"model": model, "fit": {"epochs": 3}}, "c.toml")
    quiet = Hooks(step=lambda *_: None, epoch=lambda _: None)
    start_run(recipe, shop, root / "run", resume=False).run(root / "run", quiet)
    run = open_run(root / "run", device=torch.device("cpu"))
    run = replace(run, info=replace(run.info, features={}))  # made-up texts have no encoder
    return run, stage(run, root / "staged", root / "repository")


def gate(run: TrainedRun, folder: Path) -> GateReport:
    report = measure(run, folder).report
    report.check()
    return report


def prove(staged: Staged, precision: str) -> GateReport:
    """Write the bundle anew in fp32, then as asked."""
    run, folder = staged
    return prove_in_precision(precision, folder, lambda: gate(run, folder), nullcontext)


@pytest.fixture
def fresh(staged: Staged, tmp_path: Path) -> Staged:
    shutil.copytree(staged[1], tmp_path / "bundle")
    return staged[0], tmp_path / "bundle"


def test_int8_passes_the_gate_and_serves_filtered_requests_exactly(fresh: Staged) -> None:
    report = prove(fresh, "int8")
    assert report.precision == "int8"
    assert report.sequence.overlap >= 0.99
    assert report.sequence.max_error <= RTOL
    run, folder = fresh
    assert load_manifest(folder).provenance["precision"]["sequence"] == "int8"
    bundle = open_bundle(folder)
    assert set(bundle.codes) == {"item_codes", "item_scales"}
    model = open_model(folder, threads=1)
    random = np.random.default_rng(0)
    available_N = random.random(run.info.items) > 0.3
    for row in (np.flatnonzero(~available_N) + 1).tolist():
        model.set_available(row, False)
    requests = [
        RowRequest(
            random.integers(1, run.info.items + 1, 6).tolist(),
            random.integers(1, run.info.items + 1, 9).tolist(),
            k,
        )
        for k in (1, 5, 20, run.info.items)
    ]
    for request, answer in zip(requests, model.recommend(requests), strict=True):
        scores_N = torch_scores(run, request.history)
        barred = {*request.excluded, *(np.flatnonzero(~available_N) + 1).tolist()}
        order = (np.argsort(-scores_N, kind="stable") + 1).tolist()
        wanted = [row for row in order if row not in barred][: request.k]
        assert len(answer.rows) == len(wanted)
        assert not barred & set(answer.rows)
        np.testing.assert_allclose(
            answer.scores, scores_N[np.array(wanted) - 1], atol=RTOL, rtol=RTOL
        )
    model.close()


def torch_scores(run: TrainedRun, history: list[int]) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        rows = run.model.table(run.content)
        state_1D = run.model.last(
            rows.inputs_nW, torch.tensor([history]), torch.tensor([len(history)])
        )
        scores: npt.NDArray[np.float32] = (state_1D @ rows.outputs_nD.T)[0, 1:].numpy().copy()
    return scores


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_half_passes_the_gate_and_its_errors_are_a_halfs(fresh: Staged, precision: str) -> None:
    report = prove(fresh, precision)
    assert report.precision == precision
    assert 1e-5 < report.sequence.max_error < 0.05
    assert report.sequence.overlap >= 0.995
    assert ("emulated" in report.sequence.runner) == (precision == "bf16")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_trained_number_is_compared_in_whatever_precision_it_is_written(
    fresh: Staged, precision: str
) -> None:
    run, folder = fresh
    prove(fresh, precision)
    path = folder / "sequence.onnx"
    manifest = load_manifest(folder)
    sources = manifest.provenance["weights"]["sequence"]["sources"]
    trained = {source for source, _ in sources.values()}
    fp32 = load_manifest(fresh[0].checkpoint.parents[2] / "staged").provenance["weights"]
    assert trained == {source for source, _ in fp32["sequence"]["sources"].values()}
    whole = path.read_bytes()
    for name in sources:
        # What a module computes of its weights may be off by rounding.
        turn(path, whole, name, sign="positions" in name)
        assert wrong_weights(run.model, folder, manifest) == {path.name: name}
    path.write_bytes(whole)
    assert wrong_weights(run.model, folder, manifest) == {}


def turn(path: Path, whole: bytes, name: str, *, sign: bool) -> None:
    """Turn the last bit of the largest number of an initializer, or its sign."""
    model = onnx.ModelProto.FromString(whole)
    [tensor] = [t for t in model.graph.initializer if t.name == name]
    array = numpy_helper.to_array(tensor).copy()
    bits = array.reshape(-1).view(f"u{array.itemsize}")
    sizes = np.abs(array.astype(np.float32).reshape(-1))
    bits[np.where(np.isfinite(sizes), sizes, 0).argmax()] ^= 1 << (8 * array.itemsize - 1) * sign
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_another_constant_of_a_variant_is_found_though_its_hashes_agree(
    fresh: Staged, precision: str
) -> None:
    run, folder = fresh
    prove(fresh, precision)
    path = folder / "sequence.onnx"
    whole = path.read_bytes()
    manifest = load_manifest(folder)
    sources = manifest.provenance["weights"]["sequence"]["sources"]
    constants = onnx.ModelProto.FromString(whole).graph.initializer
    others = [t.name for t in constants if t.name not in sources]
    kinds = {numpy_helper.to_array(t).dtype.kind for t in constants if t.name in others}
    assert {"i"} < kinds  # and numbers that are none of the model's
    for name in others:
        model = onnx.ModelProto.FromString(whole)
        [other] = [t for t in model.graph.initializer if t.name == name]
        array = numpy_helper.to_array(other)
        changed = np.where(np.isfinite(array), array + 1, 0).astype(array.dtype)
        other.CopyFrom(numpy_helper.from_array(changed, name))
        onnx.save(model, path)
        assert wrong_weights(run.model, folder, manifest) == {path.name: STRUCTURE}
    model = onnx.ModelProto.FromString(whole)
    next(node for node in model.graph.node if node.op_type == "Add").op_type = "Sub"
    onnx.save(model, path)
    assert wrong_weights(run.model, folder, manifest) == {path.name: STRUCTURE}


def test_codes_of_another_table_close_the_gate(fresh: Staged) -> None:
    run, folder = fresh
    prove(fresh, "int8")
    path = folder / "tables/item_codes.npy"
    codes_DC = np.load(path)
    codes_DC[:, 1:4] = codes_DC[:, 4:7]
    np.save(path, codes_DC)
    reseal(folder)
    with pytest.raises(ParityError, match="8-bit codes of 3 rows are not those of the fp32 table"):
        measure(run, folder)


def reseal(folder: Path) -> None:
    replace(load_manifest(folder), files=describe_files(folder)).save(folder)
