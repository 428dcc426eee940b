"""The gate's comparisons, and that each of them can close it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_bundle import graph_spec

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.errors import ProbeFailed
from mmsr.engine.probe import ProbeReport
from mmsr.engine.probe_filters import FilterReport
from mmsr.engine.runners.base import AnyArray
from mmsr.export.gate import GateReport, largest_error, min_cosine
from mmsr.export.onnx_file import ExportError

FILTERED = FilterReport(users=128, overlap=1.0, max_error=1e-6, misordered=0)
PROBED = ProbeReport(
    runner="a runner",
    users=1000,
    k=20,
    overlap=1.0,
    worst_overlap=1.0,
    max_abs_error=1e-6,
    max_error=1e-6,
    alone_error=1e-7,
    padding_error=1e-7,
    table_error=1e-7,
    ndcg=0.1,
    ndcg_reference=0.1,
    ndcg_error=0.0,
    misordered=0,
    filtered=FILTERED,
)
GOOD = GateReport(
    sequence=PROBED,
    item_items=300,
    item_max_error=5e-7,
    without={"text": 5e-7, "id": 0.0},
    image_items=16,
    image_min_cosine=0.99999,
    text_items=64,
    text_min_cosine=0.99999,
)
NAN = float("nan")


class Fixed:
    """A runner that gives the same outputs whatever it is asked."""

    name = "fixed"

    def __init__(self, inputs: AnyArray, outputs: AnyArray) -> None:
        self._answer = {"item_inputs": inputs, "item_outputs": outputs}

    @property
    def spec(self) -> GraphSpec:
        return graph_spec()

    def bind(self, name: str, array: AnyArray) -> None:
        pass

    def run(self, batch: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        return self._answer

    def close(self) -> None:
        pass


WANTED = (torch.ones(3, 4), torch.full((3, 2), 100.0))


def error_of(inputs: AnyArray, outputs: AnyArray) -> float:
    return largest_error(Fixed(inputs, outputs), WANTED, {})


def test_the_error_is_relative_to_the_largest_entry() -> None:
    ones, hundreds = np.ones((3, 4), np.float32), np.full((3, 2), 100, np.float32)
    assert error_of(ones, hundreds) == 0.0
    assert error_of(ones + 0.25, hundreds) == 0.25
    assert error_of(ones, hundreds + 1) == pytest.approx(0.01)


def test_what_is_no_number_is_no_agreement() -> None:
    ones, hundreds = np.ones((3, 4), np.float32), np.full((3, 2), 100, np.float32)
    one_bad = ones.copy()
    one_bad[1, 2] = NAN
    for inputs, outputs in ((one_bad, hundreds), (ones, hundreds * NAN), (ones * NAN, hundreds)):
        assert np.isnan(error_of(inputs, outputs))


def test_another_shape_is_no_agreement() -> None:
    assert error_of(np.ones((1, 4), np.float32), np.full((3, 2), 100, np.float32)) == np.inf


def test_the_gate_is_open_when_everything_agrees() -> None:
    GOOD.check()
    without_encoders = replace(GOOD, image_min_cosine=None, text_min_cosine=None)
    without_encoders.check()


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        ({"sequence": replace(PROBED, overlap=0.99)}, ProbeFailed, "overlap@20 0.990000"),
        (
            {"sequence": replace(PROBED, filtered=replace(FILTERED, overlap=0.9))},
            ProbeFailed,
            "overlap with filters",
        ),
        (
            {"sequence": replace(PROBED, filtered=replace(FILTERED, misordered=2))},
            ProbeFailed,
            "places out of order with filters 2, at most 0",
        ),
        ({"sequence": replace(PROBED, misordered=1)}, ProbeFailed, "places out of order 1"),
        ({"sequence": replace(PROBED, ndcg_error=0.01)}, ProbeFailed, "NDCG@10 error 0.01"),
        ({"sequence": replace(PROBED, table_error=NAN)}, ProbeFailed, "output table"),
        ({"item_max_error": 2e-5}, ExportError, "item.onnx differs from PyTorch by 2e-05"),
        ({"item_max_error": NAN}, ExportError, "item.onnx differs from PyTorch by nan"),
        ({"without": {"text": 0.1}}, ExportError, "item.onnx without text differs"),
        ({"without": {"text": 0.0, "id": NAN}}, ExportError, "item.onnx without id differs"),
        ({"image_min_cosine": 0.99}, ExportError, "image_encoder.onnx: cosine 0.990000"),
        ({"text_min_cosine": NAN}, ExportError, "text_encoder.onnx: cosine nan"),
    ],
)
def test_each_disagreement_closes_the_gate(
    change: dict[str, Any], error: type[MmsrError], complaint: str
) -> None:
    with pytest.raises(error) as refused:
        replace(GOOD, **change).check()
    assert complaint in str(refused.value)


def test_the_cosine_is_that_of_the_worst_row() -> None:
    one_nF = np.array([[1, 0], [0, 2], [0, 0]], np.float32)
    other_nF = np.array([[3, 0], [2, 2], [0, 0]], np.float32)
    assert min_cosine(one_nF, other_nF) == pytest.approx(np.sqrt(0.5))
    assert min_cosine(one_nF[:1], other_nF[:1]) == 1.0
    assert min_cosine(one_nF[2:], other_nF[2:]) == 1.0
    assert min_cosine(one_nF[2:], other_nF[:1]) == 0.0
    assert min_cosine(one_nF * NAN, other_nF) == 0.0
