"""The form of the graph for large catalogues (best rows in two stages), on a smaller one.

The threshold is lowered; there are more chunks of rows than results, so that both stages count.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from support.faults import linked_copy, seal
from support.small_features import write_features
from support.small_shop import write_shop
from support.whole import assert_triton_whole

from mmsr.bundle.catalogue import load_catalogue
from mmsr.bundle.manifest import load_manifest
from mmsr.bundle.repository import Repository
from mmsr.engine.items import CHUNK
from mmsr.engine.runners.base import AnyArray
from mmsr.export import forms
from mmsr.export.build import Plan, Proven, Stages, publish_run
from mmsr.export.gate import ParityError, measure
from mmsr.export.quality import Policy
from mmsr.export.triton import write_triton
from mmsr.training.config import parse_recipe
from mmsr.training.fit import Hooks
from mmsr.training.run import TrainedRun, open_run, start_run

ITEMS = 24 * CHUNK
K = 20


@dataclass(frozen=True, kw_only=True)
class Large:
    """A run, its published bundle, and Triton's form of it."""

    run: TrainedRun
    bundle: Path
    proven: Proven
    triton: Path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Large:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("large")
    shop = write_features(write_shop(root / "data", items=ITEMS))
    model = {"sources": ["id", "position"], "width": 8, "side_width": 8, "max_length": 8}
    recipe = parse_recipe(
        {"model": {**model, "blocks": 1, "feedforward_width": 8}, "fit": {"epochs": 1}}, "c.toml"
    )
    hooks = Hooks(step=lambda *_: None, epoch=lambda _: None)
    start_run(recipe, shop, root / "run", resume=False).run(root / "run", hooks)
    run = open_run(root / "run", device=torch.device("cpu"))
    repository = Repository(root / "repository")
    plan = Plan(policy=Policy(accept_drop=True), triton=root / "triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "CHUNKED_FROM", ITEMS)
        bundle_id, proven = publish_run(run, plan, repository, Stages(tell=lambda _: None))
    bundle = repository.path(bundle_id)
    return Large(run=run, bundle=bundle, proven=proven, triton=root / "triton")


def test_it_is_published_and_passes_the_gate(large: Large) -> None:
    manifest = load_manifest(large.bundle)
    assert manifest.provenance["scoring"]["chunked"] is True
    names = {node.name for node in onnx.load(large.bundle / "sequence.onnx").graph.node}
    assert "score_of_chunk" in names
    assert large.proven.parity.sequence.overlap == 1.0
    assert large.proven.parity.sequence.filtered.overlap == 1.0
    report = measure(large.run, large.bundle).report
    report.check()
    assert report.stored.table_rows == ITEMS + 1
    assert min(found.overlap for found in report.buckets.values()) == 1.0


def rows_of_another_chunk(constants: dict[str, AnyArray]) -> None:
    constants["score_chunk_rows"] = np.array(CHUNK - 1)


def half_of_each_chunk(constants: dict[str, AnyArray]) -> None:
    constants["score_places"] = constants["score_places"] // 2


@pytest.mark.parametrize("fault", [rows_of_another_chunk, half_of_each_chunk])
def test_a_fault_in_the_second_stage_is_caught_by_the_answers(
    large: Large, tmp_path: Path, fault: Callable[[dict[str, AnyArray]], None]
) -> None:
    folder = linked_copy(large.bundle, tmp_path / "bad")
    path = folder / "sequence.onnx"
    model = onnx.load(path)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    fault(constants)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(constants[tensor.name], tensor.name))
    path.unlink()
    onnx.save(model, path)
    seal(folder, as_converted=True)
    with pytest.raises(ParityError):
        measure(large.run, folder).report.check()


def test_triton_is_written_with_it_and_answers_as_the_bundle(large: Large) -> None:
    assert_triton_whole(large.triton)
    graph = onnx.load(large.triton / "sequence/1/model.onnx", load_external_data=False).graph
    assert "score_of_chunk" in {node.name for node in graph.node}
    assert ranked(large.triton, [5, 6, 7]) == best(large, [5, 6, 7], range(1, ITEMS + 1))


def test_tritons_form_bars_what_is_not_available(large: Large, tmp_path: Path) -> None:
    """The best of all, among them whole chunks, are switched off after the export."""
    history = [5, 6, 7]
    off = {*best(large, history, range(1, ITEMS + 1))[:5], *range(2 * CHUNK, 5 * CHUNK)}
    folder = linked_copy(large.bundle, tmp_path / "bundle")
    catalogue = load_catalogue(folder)
    available = np.array([row not in off for row in range(1, ITEMS + 1)])
    (folder / "catalogue.parquet").unlink()
    replace(catalogue, available=available).save(folder)
    seal(folder)
    write_triton(folder, tmp_path / "triton")
    found = ranked(tmp_path / "triton", history)
    assert found == best(large, history, [row for row in range(1, ITEMS + 1) if row not in off])


def ranked(triton: Path, history: list[int]) -> list[int]:
    """Return the rows that Triton's form of the graph ranks best after a history."""
    path = triton / "sequence/1/model.onnx"
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    seen = np.array([history], np.int64)
    fed = {"history": seen, "excluded": seen}
    fed |= {"length": np.array([len(history)], np.int64), "k": np.array([[K]], np.int64)}
    [rows] = session.run(["rows"], fed)[0]
    return [int(row) for row in rows]


def best(large: Large, history: list[int], eligible: Iterable[int]) -> list[int]:
    """Return the same by PyTorch, from the scores of all."""
    model = large.run.model
    with torch.no_grad():
        rows = model.table(large.run.content)
        state_D = model(rows.inputs_nW, torch.tensor([history]))[0, -1]
        scores_N = rows.outputs_nD @ state_D
    kept = [row for row in eligible if row not in history]
    return sorted(kept, key=lambda row: -float(scores_N[row]))[:K]
