"""Candidates by codes: which rows come back, their scores, and which graphs cannot have it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from support.tiny_bundle import Sizes, Twin, make_twin, sequence_graph

from mmsr.engine.items import bound_rows
from mmsr.engine.probe_answers import outside
from mmsr.engine.quantise import quantise_rows
from mmsr.export.int8_scoring import (
    MARGIN,
    OVERSAMPLE,
    STATE_LEVELS,
    write_int8_scoring,
)
from mmsr.export.onnx_file import describe
from mmsr.export.precision import PrecisionError

SIZES = Sizes(items=900, spare=40, width=32)
BOUND = bound_rows(SIZES.items)  # fewer than there are codes
Arrays = dict[str, npt.NDArray[Any]]
LOWEST = -1e30  # stands for -inf, which cannot be subtracted
SCORE_ATOL = 1e-5  # two fp32 sums of the same 32 products


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    (folder / "fp32.onnx").write_bytes(sequence_graph(SIZES.width))
    write_int8_scoring(folder / "fp32.onnx", folder / "int8.onnx")
    return folder / "int8.onnx"


def run(path: Path, batch: Arrays) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rows_BK, scores_BK = session.run(["rows", "scores"], batch)
    return rows_BK, scores_BK


def asked(twin: Twin, users: int, k: int, seed: int = 0) -> Arrays:
    """Return requests with exclusions; every third has nothing left but five items."""
    random = np.random.default_rng(seed)
    codes_DC, scales_C = quantise_rows(twin.outputs_CD)
    barred = np.tile(np.arange(6, SIZES.items + 1), (users, 1))
    barred[np.arange(users) % 3 < 2] = 0
    excluded = random.integers(0, SIZES.items + 1, (users, 30))
    excluded[np.arange(users) % 3 == 2] = 0
    return {
        "history": random.integers(1, SIZES.items + 1, (users, 9)),
        "length": random.integers(1, 10, users),
        "excluded": np.concatenate([excluded, barred, outside(users, SIZES.items)], axis=1),
        "k": np.array([k]),
        "item_inputs": twin.inputs_CW,
        "item_outputs": twin.outputs_CD[:BOUND],
        "item_codes": codes_DC,
        "item_scales": scales_C,
    }


def states_of(twin: Twin, batch: Arrays) -> npt.NDArray[np.float32]:
    pairs = zip(batch["history"], batch["length"], strict=True)
    return np.stack([twin.state(row[:length]) for row, length in pairs])


def brute_force(twin: Twin, batch: Arrays) -> npt.NDArray[np.float32]:
    scores_BC = states_of(twin, batch) @ twin.outputs_CD[:BOUND].T
    np.put_along_axis(scores_BC, batch["excluded"], np.float32(-np.inf), axis=1)
    scored: npt.NDArray[np.float32] = scores_BC
    return scored


@pytest.mark.parametrize("k", [1, 20, 300, 900])
def test_where_the_margin_holds_the_answers_are_those_of_brute_force(graph: Path, k: int) -> None:
    twin = make_twin(SIZES)
    batch = asked(twin, 24, k)
    rows_BK, found_BK = run(graph, batch)
    scores_BC = brute_force(twin, batch)
    wanted_BK = -np.sort(-scores_BC, axis=1)[:, :k]
    held_B = margin_holds(twin, batch, scores_BC, k)
    assert held_B.mean() > 0.9
    np.testing.assert_allclose(found_BK[held_B], wanted_BK[held_B], atol=SCORE_ATOL)
    at_rows_BK = np.take_along_axis(scores_BC, rows_BK, axis=1)
    np.testing.assert_allclose(found_BK, at_rows_BK, atol=SCORE_ATOL)  # also where it does not
    assert all(len(set(rows)) == k for rows in rows_BK.tolist())


def margin_holds(
    twin: Twin, batch: Arrays, scores_BC: npt.NDArray[np.float32], k: int
) -> npt.NDArray[np.bool_]:
    """Tell whether no row of the best k can be pushed behind the last candidate.

    A score by codes is off by at most what half a step of the state and of the row come to.
    """
    state_BD = states_of(twin, batch)
    step_B1 = np.abs(state_BD).max(axis=1, keepdims=True) / STATE_LEVELS
    item_C = batch["item_scales"][:BOUND]
    size_C = np.abs(twin.outputs_CD[:BOUND]).sum(axis=1)
    state_B1 = np.abs(state_BD).sum(axis=1, keepdims=True) + SIZES.width * step_B1 / 2
    error_BC = step_B1 / 2 * size_C + item_C / 2 * state_B1
    error_B = np.where(np.isfinite(scores_BC), error_BC, 0).max(axis=1)
    most = min(OVERSAMPLE * k + MARGIN, BOUND)
    sorted_BC = np.maximum(-np.sort(-scores_BC, axis=1), np.float32(LOWEST))
    kth_B, last_B = sorted_BC[:, k - 1], sorted_BC[:, most - 1]
    # The second: all that is eligible is among the candidates.
    holds_B: npt.NDArray[np.bool_] = (kth_B - last_B > 2 * error_B) | (last_B <= LOWEST)
    return holds_B


def test_what_is_barred_never_scores(graph: Path) -> None:
    batch = asked(make_twin(SIZES), 12, 20)
    rows_BK, scores_BK = run(graph, batch)
    for user, (rows, scores) in enumerate(zip(rows_BK, scores_BK, strict=True)):
        kept = rows[scores > -np.inf]
        assert not set(kept.tolist()) & set(batch["excluded"][user].tolist())
        assert len(kept) == (5 if user % 3 == 2 else 20)


def test_the_largest_states_and_codes_do_not_saturate(graph: Path) -> None:
    """Entries all at the largest level: sums of pairs that would be clamped with eight bits."""
    twin = make_twin(SIZES)
    twin.inputs_CW[:] = 1.0
    twin.outputs_CD[:] = 1.0
    twin.outputs_CD[:, 0] = -np.linspace(0.0, 1.0, SIZES.capacity)
    batch = asked(twin, 2, 20) | {"excluded": outside(2, SIZES.items)}
    rows_BK, scores_BK = run(graph, batch)
    np.testing.assert_allclose(scores_BK, -np.sort(-brute_force(twin, batch))[:, :20], atol=1e-4)
    assert rows_BK[0].max() <= OVERSAMPLE * 20 + MARGIN


def test_a_request_is_answered_alike_beside_a_larger_state(graph: Path) -> None:
    twin = make_twin(SIZES)
    twin.inputs_CW[7] *= 1e4
    batch = asked(twin, 3, 20)
    batch["history"][0], batch["history"][1:] = 7, 11
    together = run(graph, batch)
    each = {"history", "length", "excluded"}
    alone = run(graph, {n: a[1:2] if n in each else a for n, a in batch.items()})
    np.testing.assert_array_equal(together[0][1:2], alone[0])
    np.testing.assert_allclose(together[1][1:2], alone[1], rtol=1e-6)


def test_the_codes_are_the_only_new_inputs(graph: Path) -> None:
    before = {tensor.name for tensor in describe(graph.with_name("fp32.onnx")).inputs}
    found = {tensor.name: tensor for tensor in describe(graph).inputs}
    assert found.keys() - before == {"item_codes", "item_scales"}
    assert found["item_codes"].dtype == "int8"
    assert found["item_codes"].shape[1] != found["item_outputs"].shape[0]  # fewer may be bound


def test_a_graph_that_ranks_nothing_is_refused(tmp_path: Path) -> None:
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in ("item_outputs", "y")
    ]
    node = helper.make_node("Relu", ["item_outputs"], ["y"])
    made = helper.make_model(
        helper.make_graph([node], "g", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.save(made, tmp_path / "g.onnx")
    with pytest.raises(PrecisionError, match=r"g\.onnx: no 'excluded', expected a sequence graph"):
        write_int8_scoring(tmp_path / "g.onnx", tmp_path / "h.onnx")
    assert not (tmp_path / "h.onnx").exists()
