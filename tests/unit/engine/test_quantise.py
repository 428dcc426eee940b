"""Codes of output vectors: how far they are off, and where there is nothing to be coded."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.tiny_bundle import Shop

from mmsr.bundle.manifest import GraphSpec, TensorSpec
from mmsr.engine import quantise
from mmsr.engine.quantise import bind_outputs, quantise_rows
from mmsr.engine.runners.base import AnyArray
from mmsr.engine.runners.onnx import open_onnx


def test_an_entry_is_off_by_at_most_half_its_items_scale() -> None:
    random = np.random.default_rng(0)
    rows_nD = random.normal(size=(500, 24)) * 10.0 ** random.integers(-6, 6, (500, 1))
    outputs_nD = rows_nD.astype(np.float32)
    codes_Dn, scales_n = quantise_rows(outputs_nD)
    assert codes_Dn.dtype == np.int8
    assert codes_Dn.shape == (24, 500)
    assert np.abs(codes_Dn).max(axis=0).tolist() == [127] * 500
    error_nD = np.abs(codes_Dn.T * scales_n[:, None] - outputs_nD)
    assert (error_nD <= 0.5001 * scales_n[:, None]).all()


def test_rows_of_zeros_and_what_is_no_number_become_zero() -> None:
    rows = np.array([[0, 0], [1e-44, 0], [np.nan, 2], [np.inf, -1]], np.float32)
    codes_Dn, scales_n = quantise_rows(rows)
    assert codes_Dn.T.tolist() == [[0, 0], [0, 0], [0, 127], [0, -127]]
    assert scales_n[0] == 0
    assert np.isfinite(scales_n).all()


def test_a_table_in_blocks_is_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    whole = quantise_rows(rows)
    monkeypatch.setattr(quantise, "ROWS_PER_BLOCK", 7)
    for one, other in zip(whole, quantise_rows(rows), strict=True):
        np.testing.assert_array_equal(one, other)
    alone = quantise_rows(rows[13:14])  # as an item that is changed while serving
    np.testing.assert_array_equal(alone[0][:, 0], whole[0][:, 13])


class Bound:
    """A runner that remembers what was bound."""

    name = "remembers"

    def __init__(self, *inputs: str) -> None:
        specs = tuple(TensorSpec(name=n, dtype="float32", shape=("C",)) for n in inputs)
        self.spec = GraphSpec(file="g.onnx", inputs=specs, outputs=())
        self.bound: dict[str, AnyArray] = {}

    def bind(self, name: str, array: AnyArray) -> None:
        self.bound[name] = array

    def write_rows(
        self, name: str, rows: Sequence[int], values: AnyArray, *, axis: int = 0
    ) -> None:
        raise AssertionError("not called")

    def run(self, batch: object) -> dict[str, AnyArray]:
        raise NotImplementedError

    def close(self) -> None:
        self.bound.clear()


def test_codes_are_bound_where_the_graph_reads_them() -> None:
    rows = np.ones((4, 3), np.float32)
    plain, coded = Bound("item_outputs"), Bound("item_outputs", "item_codes", "item_scales")
    bind_outputs(plain, rows)
    bind_outputs(coded, rows)
    assert list(plain.bound) == ["item_outputs"]
    assert coded.bound["item_codes"].shape == (3, 4)
    assert coded.bound["item_scales"].shape == (4,)


def test_a_half_input_takes_the_fp32_table_and_nothing_else_changes_type(
    shop: Shop, tmp_path: Path
) -> None:
    from mmsr.export.onnx_file import describe
    from mmsr.export.precision import SEQUENCE_HALF_INPUTS, write_half

    path = tmp_path / "half.onnx"
    write_half(shop.folder / "sequence.onnx", path, SEQUENCE_HALF_INPUTS)
    runner = open_onnx(path, describe(path), threads=1)
    runner.bind("item_outputs", shop.twin.outputs_CD)
    with pytest.raises(ValueError, match=r"'item_inputs': float64"):
        runner.bind("item_inputs", shop.twin.inputs_CW.astype(np.float64))
    runner.close()
