from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsr.bundle.manifest import GraphSpec, TensorSpec
from mmsr.engine.runners.buckets import (
    Steps,
    TooLargeError,
    cut,
    doubling,
    joined,
    outputs_per_result,
    pieces,
    shape_batch,
)

SPEC = GraphSpec(
    file="graph.onnx",
    inputs=(
        TensorSpec(name="history", dtype="int64", shape=("B", "L")),
        TensorSpec(name="length", dtype="int64", shape=("B",)),
        TensorSpec(name="k", dtype="int64", shape=(1,)),
    ),
    outputs=(TensorSpec(name="rows", dtype="int64", shape=("B", "K")),),
)
STEPS = Steps(dims={"B": (1, 4, 8), "L": (4, 12)}, values={"k": (10, 50)})


def batch_of(rows: int, length: int, k: int) -> dict[str, Any]:
    return {
        "history": np.arange(1, 1 + rows * length).reshape(rows, length),
        "length": np.full(rows, length),
        "k": np.array([k]),
    }


def test_sizes_grow_to_their_steps_and_rows_like_the_last() -> None:
    shaped = shape_batch(SPEC, STEPS, batch_of(2, 3, 7))
    assert shaped.key == (("B", 4), ("L", 4), ("k", 10))
    assert shaped.inputs["history"].tolist() == [[1, 2, 3, 0], *[[4, 5, 6, 0]] * 3]
    assert shaped.inputs["length"].tolist() == [3] * 4
    assert shaped.inputs["k"].tolist() == [10]
    assert (shaped.rows, shaped.results) == (2, 7)


def test_a_batch_may_be_of_items() -> None:
    """The item graph's rows are n; its table of ids, beside them, is as large as it is."""
    spec = GraphSpec(
        file="item.onnx",
        inputs=(
            TensorSpec(name="id_row", dtype="int64", shape=("n",)),
            TensorSpec(name="known", dtype="bool", shape=("n",)),
            TensorSpec(name="id_table", dtype="float32", shape=("R", 2)),
        ),
        outputs=(),
    )
    steps = Steps(dims={"n": (4,)}, batch="n")
    batch = {"id_row": np.arange(6), "known": np.arange(6) < 3}
    first, second = (shape_batch(spec, steps, piece) for piece in pieces(spec, steps, batch))
    assert (first.rows, second.rows) == (4, 2)
    assert second.inputs["id_row"].tolist() == [4, 5, 5, 5]
    assert (first.key, steps.batch_place(first.key)) == ((("n", 4),), 0)


def test_what_fits_already_is_not_copied() -> None:
    batch = batch_of(4, 12, 50)
    shaped = shape_batch(SPEC, STEPS, batch)
    assert shaped.inputs["history"] is batch["history"]


def test_an_answer_is_cut_to_what_was_asked_for() -> None:
    shaped = shape_batch(SPEC, STEPS, batch_of(3, 3, 7))
    assert outputs_per_result(SPEC, STEPS) == {"rows"}
    outputs = {"rows": np.zeros((4, 10)), "states": np.zeros((4, 10))}
    found = cut(outputs, shaped, frozenset({"rows"}))
    assert (found["rows"].shape, found["states"].shape) == ((3, 7), (3, 10))


def test_no_more_results_are_asked_for_than_rows_are_bound() -> None:
    shaped = shape_batch(SPEC, STEPS, batch_of(1, 3, 12), (("C", 20),))
    assert shaped.inputs["k"].tolist() == [20]


def test_the_padding_of_what_is_excluded_is_excluded_anyway() -> None:
    """Line 0 may be an item's."""
    spec = GraphSpec(
        file="graph.onnx",
        inputs=(TensorSpec(name="excluded", dtype="int64", shape=("B", "E")),),
        outputs=(),
    )
    steps = Steps(dims={"B": (1, 2, 4), "E": (4,)})
    shaped = shape_batch(spec, steps, {"excluded": np.array([[5, 6], [7, 8], [3, 9]])})
    assert shaped.inputs["excluded"].tolist() == [[5, 6, 6, 6], [7, 8, 8, 8], *[[3, 9, 9, 9]] * 2]


@pytest.mark.parametrize(
    ("sizes", "said"),
    [((9, 3, 7), "B 9; at most 8"), ((1, 13, 7), "L 13; at most 12"), ((1, 3, 51), "k 51; at")],
)
def test_what_no_step_reaches_is_too_large(sizes: tuple[int, int, int], said: str) -> None:
    with pytest.raises(TooLargeError, match=said):
        shape_batch(SPEC, STEPS, batch_of(*sizes))


@given(rows=st.integers(1, 40), length=st.integers(1, 12))
def test_pieces_make_up_the_whole(rows: int, length: int) -> None:
    batch = batch_of(rows, length, 5)
    found = pieces(SPEC, STEPS, batch)
    assert all(len(piece["history"]) <= 8 for piece in found)
    assert all(piece["k"].tolist() == [5] for piece in found)
    whole = joined([{"history": piece["history"]} for piece in found])
    np.testing.assert_array_equal(whole["history"], batch["history"])


@given(most=st.integers(1, 5000), least=st.integers(1, 64))
def test_steps_double_and_end_where_they_should(most: int, least: int) -> None:
    sizes = doubling(least, most)
    assert sizes[-1] == most
    assert list(sizes) == sorted(set(sizes))
    assert all(b <= 2 * a for a, b in pairwise(sizes))
