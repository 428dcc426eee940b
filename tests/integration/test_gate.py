"""The gate on a real item.onnx: what was changed since the export is found, and named."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from support.random_run import random_run
from torch import Tensor

from mmsr.bundle.manifest import GraphSpec
from mmsr.export.convert import convert_item
from mmsr.export.gate import ITEM_TOLERANCE, check_item_graph
from mmsr.export.tables import item_rows
from mmsr.training.config import SplitConfig
from mmsr.training.run import TrainedRun

Exported = tuple[TrainedRun, Path, GraphSpec]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    run = random_run(SplitConfig())
    path = tmp_path_factory.mktemp("gate") / "item.onnx"
    return run, path, convert_item(run.model, path)


@contextmanager
def changed(run: TrainedRun, ending: str) -> Iterator[None]:
    """Change the one parameter of the model whose name ends so, for a while."""
    [parameter] = [p for name, p in run.model.named_parameters() if name.endswith(ending)]
    before = parameter.detach().clone()
    with torch.no_grad():
        parameter.add_(1.0)
    yield
    with torch.no_grad():
        parameter.copy_(before)


def test_an_item_graph_that_agrees_has_small_errors(exported: Exported) -> None:
    run, path, spec = exported
    error, without = check_item_graph(run, item_rows(run), path, spec)
    assert 0 < error <= ITEM_TOLERANCE
    assert without.keys() == {"text", "id"}
    assert all(0 <= value <= ITEM_TOLERANCE for value in without.values())


def test_rows_of_another_epoch_are_found(exported: Exported) -> None:
    run, path, spec = exported
    rows = item_rows(run)
    rows.outputs_nD[7] += 0.01
    error, without = check_item_graph(run, rows, path, spec)
    assert error > ITEM_TOLERANCE
    assert max(without.values()) <= ITEM_TOLERANCE


def test_another_vector_for_missing_texts_is_found(exported: Exported) -> None:
    run, path, spec = exported
    rows = item_rows(run)
    with changed(run, "text.missing_S"):
        error, without = check_item_graph(run, rows, path, spec)
    assert error <= ITEM_TOLERANCE
    assert without["text"] > ITEM_TOLERANCE


def test_a_row_that_is_no_number_is_found(exported: Exported) -> None:
    run, path, spec = exported
    rows = item_rows(run)
    rows.inputs_nW[3, 2] = Tensor([float("nan")])[0]
    error, _ = check_item_graph(run, rows, path, spec)
    assert not error <= ITEM_TOLERANCE
