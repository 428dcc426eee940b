"""The gate's comparisons, and that each of them can close it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.proven import AGREED, FILTERED, GOOD, PROBED, STORED
from support.tiny_bundle import graph_spec

from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.runners.base import AnyArray
from mmsr.export.gate import ParityError
from mmsr.export.held_out import Comparison
from mmsr.export.parity import (
    Difference,
    difference,
    item_difference,
    length_buckets,
)
from mmsr.export.subsets import SubsetReport, subsets_of
from mmsr.export.vectors import max_distance, min_cosine

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

    def write_rows(
        self, name: str, rows: Sequence[int], values: AnyArray, *, axis: int = 0
    ) -> None:
        pass

    def run(self, batch: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        return self._answer

    def close(self) -> None:
        pass


WANTED = {"item_inputs": torch.ones(3, 4), "item_outputs": torch.full((3, 2), 100.0)}


def errors_of(inputs: AnyArray, outputs: AnyArray) -> tuple[float, float]:
    found = item_difference(Fixed(inputs, outputs), WANTED, {})
    return found["item_inputs"].max_error, found["item_outputs"].max_error


def test_the_error_is_relative_to_the_largest_entry() -> None:
    ones, hundreds = np.ones((3, 4), np.float32), np.full((3, 2), 100, np.float32)
    assert errors_of(ones, hundreds) == (0.0, 0.0)
    assert errors_of(ones + 0.25, hundreds) == (0.25, 0.0)
    assert errors_of(ones, hundreds + 1)[1] == pytest.approx(0.01)
    assert difference(hundreds + 1, hundreds).max_abs_error == 1.0


def test_what_is_no_number_is_no_agreement() -> None:
    ones, hundreds = np.ones((3, 4), np.float32), np.full((3, 2), 100, np.float32)
    one_bad = ones.copy()
    one_bad[1, 2] = NAN
    assert np.isnan(errors_of(one_bad, hundreds)[0])
    assert np.isnan(errors_of(ones, hundreds * NAN)[1])
    assert np.isnan(Difference().worse(difference(one_bad, ones)).max_error)
    assert np.isnan(difference(one_bad, ones).worse(Difference()).max_abs_error)


def test_another_shape_is_no_agreement() -> None:
    found = errors_of(np.ones((1, 4), np.float32), np.full((3, 2), 100, np.float32))
    assert found == (np.inf, 0.0)


def test_histories_are_padded_to_powers_of_two_and_to_the_longest() -> None:
    assert length_buckets(50) == [1, 2, 4, 8, 16, 32, 50]
    assert length_buckets(8) == [1, 2, 4, 8]
    assert length_buckets(1) == [1]


def test_every_modality_every_id_and_all_content_are_taken_away() -> None:
    assert subsets_of(["image", "text"]) == {
        "no image": ("image",),
        "no text": ("text",),
        "ids only": ("image", "text"),
        "content only": ("id",),
    }


def test_the_gate_is_open_when_everything_agrees() -> None:
    GOOD.check()
    without_encoders = replace(GOOD, image_min_cosine=None, text_min_cosine=None)
    without_encoders.check()


FAR = Difference(max_error=2e-5, max_abs_error=2e-5)
LOWER = Comparison(users=1000, ndcg=0.0995, reference=0.1, low=-0.0007, high=-0.0003)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sequence": replace(PROBED, overlap=0.99)}, "overlap@20 0.990000"),
        (
            {"sequence": replace(PROBED, filtered=replace(FILTERED, overlap=0.9))},
            "overlap with filters",
        ),
        (
            {"sequence": replace(PROBED, filtered=replace(FILTERED, misordered=2))},
            "places out of order with filters 2, at most 0",
        ),
        ({"sequence": replace(PROBED, misordered=1)}, "places out of order 1"),
        ({"sequence": replace(PROBED, ndcg_error=0.01)}, "NDCG@10 error 0.01"),
        ({"sequence": replace(PROBED, table_error=NAN)}, "output table"),
        ({"probe_error": 1e-3}, "probe.npz differs from PyTorch's answers by 0.001"),
        ({"held_out": LOWER}, "NDCG@10 0.09950, PyTorch's 0.10000 on 1000 users"),
        (
            {"buckets": {"8": replace(AGREED, overlap=0.99)}},
            "sequence.onnx, padded to 8: overlap 0.9900",
        ),
        ({"buckets": {"8": replace(AGREED, max_error=NAN)}}, "score error nan"),
        ({"item": {"item_inputs": FAR}}, "item.onnx, item_inputs differs from PyTorch by 2e-05"),
        ({"item": {"item_inputs": Difference(max_error=NAN)}}, "differs from PyTorch by nan"),
        ({"made_up": {"item_outputs": FAR}}, "item.onnx, made-up items, item_outputs differs"),
        (
            {"subsets": {"ids only": SubsetReport(items=9, item={"x": FAR}, sequence=AGREED)}},
            "item.onnx, ids only, x differs",
        ),
        (
            {
                "subsets": {
                    "no text": SubsetReport(
                        items=9, item={}, sequence=replace(AGREED, max_error=1e-3)
                    )
                }
            },
            "sequence.onnx, no text: overlap 1.0000, at least 1 expected, score error 0.001",
        ),
        ({"stored": replace(STORED, tables={"tables/ids.npy": FAR})}, "tables/ids.npy differs"),
        ({"stored": replace(STORED, spare_rows=1)}, "1 spare rows of the tables are not zero"),
        ({"stored": replace(STORED, wrong_items=2)}, "catalogue.parquet: 2 of 300 rows"),
        ({"stored": replace(STORED, wrong_graphs=["item.onnx"])}, "item.onnx does not hold"),
        ({"stored": replace(STORED, wrong_files=["tokenizer.json"])}, "tokenizer.json is not"),
        (
            {"stored": replace(STORED, wrong_fields=["exclude_seen"])},
            "manifest.json: exclude_seen is not what the model was trained with",
        ),
        ({"image_min_cosine": 0.99}, "image_encoder.onnx: cosine 0.990000"),
        ({"image_max_distance": 0.5}, "distance 0.5, at most 0.0141 allowed"),
        ({"text_min_cosine": NAN}, "text_encoder.onnx: cosine nan"),
    ],
)
def test_each_disagreement_closes_the_gate(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ParityError) as refused:
        replace(GOOD, **change).check()
    assert complaint in str(refused.value)
    assert "; nothing was published; export again with --fresh" in str(refused.value)
    assert refused.value.parity == replace(GOOD, **change)
    assert refused.value.exit_code == 4


@pytest.mark.parametrize(
    ("precision", "overlap"), [("fp16", 0.995), ("bf16", 0.995), ("int8", 0.99)]
)
def test_less_precise_graphs_may_lose_what_is_laid_down(precision: str, overlap: float) -> None:
    half = replace(GOOD, precision=precision, sequence=replace(PROBED, overlap=overlap))
    half.check()
    with pytest.raises(ParityError, match=r"overlap@20 0\.985000, at least 0\.99"):
        replace(half, sequence=replace(PROBED, overlap=0.985)).check()
    lost = {"fp16": 0.0994, "bf16": 0.0994, "int8": 0.0989}[precision]
    with pytest.raises(ParityError, match=r"NDCG@10 0\.09"):
        replace(half, held_out=replace(LOWER, ndcg=lost)).check()
    replace(half, held_out=replace(LOWER, ndcg=lost, high=0.0001)).check()


def test_only_a_few_of_many_problems_are_told() -> None:
    stored = replace(STORED, spare_rows=1, wrong_items=1, wrong_graphs=["a.onnx", "b.onnx"])
    with pytest.raises(ParityError, match=r"a\.onnx does not hold .* \(and 1 more\); nothing"):
        replace(GOOD, stored=stored).check()


def test_the_report_is_numbers() -> None:
    report = GOOD.to_json()
    assert report["sequence"]["overlap"] == 1.0
    assert report["subsets"]["no text"]["sequence"]["max_error"] == 1e-7
    assert json.loads(json.dumps(report)) == report


def test_a_scale_that_a_cosine_does_not_see_is_a_distance() -> None:
    one_nF = np.array([[1, 0], [0, 2], [0, 0]], np.float32)
    assert max_distance(one_nF, one_nF) == 0.0
    assert max_distance(one_nF * 1.5, one_nF) == 0.5
    assert min_cosine(one_nF * 1.5, one_nF) == 1.0
    assert max_distance(one_nF + 1, one_nF) == np.inf  # a feature of zero has become something


def test_the_cosine_is_that_of_the_worst_row() -> None:
    one_nF = np.array([[1, 0], [0, 2], [0, 0]], np.float32)
    other_nF = np.array([[3, 0], [2, 2], [0, 0]], np.float32)
    assert min_cosine(one_nF, other_nF) == pytest.approx(np.sqrt(0.5))
    assert min_cosine(one_nF[:1], other_nF[:1]) == 1.0
    assert min_cosine(one_nF[2:], other_nF[2:]) == 1.0
    assert min_cosine(one_nF[2:], other_nF[:1]) == 0.0
    assert min_cosine(one_nF * NAN, other_nF) == 0.0


def test_a_text_encoder_in_int8_may_turn_features_but_not_the_ranking() -> None:
    int8 = replace(GOOD, text_precision="int8", text_min_cosine=0.96, text_max_distance=0.2)
    int8.check()
    with pytest.raises(ParityError, match=r"text_encoder\.onnx: cosine 0\.960000"):
        replace(int8, text_precision="fp32").check()
    with pytest.raises(ParityError, match=r"cosine 0\.940000 .* at least 0\.95 expected"):
        replace(int8, text_min_cosine=0.94).check()
    lower = replace(LOWER, ndcg=0.0989)
    with pytest.raises(ParityError, match=r"NDCG@10 0\.09890 with texts encoded in int8"):
        replace(int8, text_effect=lower).check()
    replace(int8, text_effect=replace(lower, high=0.0001)).check()
