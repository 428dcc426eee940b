"""Half precision written into a graph: what changes, what stays, and that the answers stay."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.tiny_bundle import Sizes, make_twin, sequence_graph

from mmsr.engine.items import bound_rows
from mmsr.engine.probe_answers import outside
from mmsr.export.onnx_file import describe
from mmsr.export.precision import (
    SEQUENCE_HALF_INPUTS,
    PrecisionError,
    half_nodes,
    write_half,
)

HALF_RTOL = 2e-3  # of the largest value; half keeps 11 bits (5e-4), measured 4e-4
Arrays = dict[str, npt.NDArray[Any]]


def run(path: Path, batch: Arrays) -> list[npt.NDArray[Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs: list[npt.NDArray[Any]] = session.run(None, batch)
    return outputs


def write_chain(path: Path, nodes: list[tuple[str, list[str], str]], constants: Arrays) -> Path:
    """Write a graph x [n, 4] -> y of the given nodes."""
    made = [helper.make_node(op, inputs, [output], name=output) for op, inputs, output in nodes]
    graph = helper.make_graph(
        made,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def test_tables_become_half_inputs_and_the_best_rows_stay(tmp_path: Path) -> None:
    sizes = Sizes()
    twin = make_twin(sizes)
    single, half = tmp_path / "s.onnx", tmp_path / "h.onnx"
    single.write_bytes(sequence_graph(sizes.width))
    write_half(single, half, SEQUENCE_HALF_INPUTS)
    types = {t.name: t.dtype for t in describe(half).inputs}
    assert [types[name] for name in SEQUENCE_HALF_INPUTS] == ["float16"] * 2
    assert {t.dtype for t in describe(half).outputs} == {"int64", "float32"}
    assert {"Gemm", "TopK", "ScatterElements"} <= set(half_nodes(half))
    random = np.random.default_rng(0)
    batch: Arrays = {
        "history": random.integers(1, sizes.items + 1, (6, 9)),
        "length": random.integers(1, 10, 6),
        "excluded": np.concatenate(
            [random.integers(0, sizes.items + 1, (6, 5)), outside(6, sizes.items)], axis=1
        ),
        "k": np.array([20]),
        "item_inputs": twin.inputs_CW,
        "item_outputs": twin.outputs_CD[: bound_rows(sizes.items)],
    }
    _, wanted, _ = run(single, batch)
    halved = {n: a.astype(np.float16) if n in SEQUENCE_HALF_INPUTS else a for n, a in batch.items()}
    rows, found, _ = run(half, halved)
    np.testing.assert_allclose(found, wanted, atol=HALF_RTOL * np.abs(wanted).max())
    excluded = [set(row) for row in batch["excluded"].tolist()]
    assert all(not barred & set(row) for barred, row in zip(excluded, rows.tolist(), strict=True))


def test_without_half_inputs_the_contract_of_the_graph_is_as_it_was(tmp_path: Path) -> None:
    single, half = tmp_path / "s.onnx", tmp_path / "s-half.onnx"
    single.write_bytes(sequence_graph(16))
    write_half(single, half)
    assert describe(half).inputs == describe(single).inputs
    assert describe(half).outputs == describe(single).outputs


@pytest.mark.parametrize(
    ("op", "constant"),
    [("Div", [1e-6, 1, 1, 1]), ("Add", [-3e38, 0, 0, 0]), ("Mul", [1e-7, 0, 0, 0])],
)
def test_a_node_whose_constant_half_cannot_hold_stays_single(
    tmp_path: Path, op: str, constant: list[float]
) -> None:
    values = np.array(constant, np.float32)
    path = write_chain(tmp_path / "c.onnx", [(op, ["x", "c"], "y")], {"c": values})
    write_half(path, tmp_path / "h.onnx")
    assert list(half_nodes(tmp_path / "h.onnx")) == []
    x = np.array([[1.5e-7, 2, 3, 4]], np.float32)
    np.testing.assert_array_equal(run(tmp_path / "h.onnx", {"x": x}), run(path, {"x": x}))


def test_a_feature_less_its_mean_is_computed_in_single(tmp_path: Path) -> None:
    constants: Arrays = {
        "mean": np.full(4, 1000, np.float32),
        "weight": np.eye(4, dtype=np.float32),
    }
    nodes = [("Sub", ["x", "mean"], "centred"), ("MatMul", ["centred", "weight"], "y")]
    path = write_chain(tmp_path / "c.onnx", nodes, constants)
    write_half(path, tmp_path / "h.onnx")
    assert list(half_nodes(tmp_path / "h.onnx")) == ["MatMul"]
    x = np.array([[1000.1, 999.9, 1000.3, 1000]], np.float32)
    (found,) = run(tmp_path / "h.onnx", {"x": x})
    np.testing.assert_allclose(found, x - 1000, rtol=HALF_RTOL)


def test_an_output_that_is_read_on_inside_is_cast_once(tmp_path: Path) -> None:
    weight: Arrays = {"weight": np.eye(4, dtype=np.float32)}
    path = write_chain(tmp_path / "c.onnx", [("MatMul", ["x", "weight"], "y")], weight)
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Relu", ["y"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 4]))
    onnx.save(model, path)
    write_half(path, tmp_path / "h.onnx")
    x = np.array([[1, -2, 3, -4]], np.float32)
    y, z = run(tmp_path / "h.onnx", {"x": x})
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(z, np.maximum(x, 0))


def test_a_half_input_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = write_chain(tmp_path / "c.onnx", [("Relu", ["x"], "y")], {})
    with pytest.raises(PrecisionError, match=r"no fp32 input 'table'; there are: x"):
        write_half(path, tmp_path / "h.onnx", ["table"])


def test_a_graph_with_a_branch_is_refused(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["out"])],
        "inner",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    path = write_chain(tmp_path / "c.onnx", [("Relu", ["x"], "y")], {})
    model = onnx.load(path)
    branch = helper.make_node(
        "If", ["yes"], ["z"], name="choice", then_branch=inner, else_branch=inner
    )
    model.graph.node.append(branch)
    onnx.save(model, path)
    with pytest.raises(PrecisionError, match="'choice' holds a graph of its own"):
        write_half(path, tmp_path / "h.onnx")
