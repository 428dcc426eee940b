"""fp32 sequence graph -> the same graph, which chooses candidates by 8-bit codes.

All rows are scored by an integer product of their codes (`mmsr.engine.quantise`) with the state's,
filters applied; the best of them are gathered from the fp32 table and scored as before, so that
every returned score is fp32's. Knows ONNX, nothing of recommenders.

ONNX Runtime's product of uint8 and int8 adds pairs in 16 bits on processors without VNNI, and
clamps: 255 * 127 * 2 does not fit. So the state has seven bits, which fit exactly.
"""

# B batch, D width, C table rows, M candidates, K results

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from mmsr.engine.quantise import CODES, SCALES
from mmsr.export.precision import PrecisionError

# Candidates: this many times K, and so many more. An estimate for normal scores: codes err by 1.3 %
# of the deviation, which pushes a row of the best 20 of a million behind some six others. Measured:
# overlap 1.0 with fp32's best 20 at 12,000 to a million random rows and on Beauty.
OVERSAMPLE, MARGIN = 2, 64
STATE_LEVELS = 63  # on either side of STATE_ZERO
STATE_ZERO = 64
LEAST = 1e-30  # a state of zeros is divided by it
TABLE = "item_outputs"
PREFIX = "int8_"

Constants = dict[str, npt.NDArray[Any]]


def write_int8_scoring(source: Path, target: Path) -> None:
    """Write the sequence graph `source` to `target` with two more inputs, the codes.

    `PrecisionError` unless its scores are one product of a state with `item_outputs`.
    """
    model = onnx.load(source)
    graph = model.graph
    state = _state(source.name, graph)
    for name in ("bias", "bias_row", "excluded", "k"):
        if name not in {value.name for value in graph.input}:
            raise PrecisionError(f"{source.name}: no input {name!r}, expected a sequence graph")
    columns = {i.name: i for i in graph.input}[TABLE].type.tensor_type.shape.dim[1]
    width = columns.dim_param or columns.dim_value
    nodes = [*graph.node, *_nodes(state)]
    del graph.node[:]
    graph.node.extend(_needed(nodes, [output.name for output in graph.output]))
    graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in _constants().items())
    _drop_unused(graph)
    rows = helper.make_tensor_value_info(CODES, TensorProto.INT8, [width, "C"])
    scales = helper.make_tensor_value_info(SCALES, TensorProto.FLOAT, ["C"])
    graph.input.extend([rows, scales])
    del graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


def _state(name: str, graph: GraphProto) -> str:
    """Return the value that is multiplied with the output table; take away what follows."""
    readers = [node for node in graph.node if TABLE in node.input]
    turned = [node.output[0] for node in readers if node.op_type == "Transpose"]
    products = [
        node
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and ({TABLE, *turned} & set(node.input[1:2]))
    ]
    if len(products) != 1 or len(readers) != 1:
        raise PrecisionError(
            f"{name}: {len(products)} products with {TABLE!r} and {len(readers)} nodes that read "
            "it, expected one of each; it cannot be written in int8"
        )
    outputs = {output.name for output in graph.output}
    kept = [node for node in graph.node if not outputs & set(node.output)]
    del graph.node[:]
    graph.node.extend(kept)
    state: str = products[0].input[0]
    return state


def _nodes(state: str) -> Iterator[NodeProto]:
    yield from _quantised(state)
    yield from _candidates()
    yield from _scored_again(state)


def _node(op: str, inputs: Sequence[str], output: str, **attributes: int) -> NodeProto:
    node = helper.make_node(op, list(inputs), [output], name=output)
    node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    return node


def _quantised(state: str) -> Iterator[NodeProto]:
    """State [B, D] -> `int8_state` uint8 [B, D], each request by its own largest entry."""
    yield _node("Abs", [state], f"{PREFIX}sizes")
    yield _node("ReduceMax", [f"{PREFIX}sizes", f"{PREFIX}one"], f"{PREFIX}largest", keepdims=1)
    yield _node("Max", [f"{PREFIX}largest", f"{PREFIX}least"], f"{PREFIX}scale")
    yield _node("Div", [state, f"{PREFIX}scale"], f"{PREFIX}share")
    yield _node("Mul", [f"{PREFIX}share", f"{PREFIX}levels"], f"{PREFIX}level")
    yield _node("Round", [f"{PREFIX}level"], f"{PREFIX}rounded")
    yield _node("Add", [f"{PREFIX}rounded", f"{PREFIX}middle"], f"{PREFIX}shifted")
    yield _node("Cast", [f"{PREFIX}shifted"], f"{PREFIX}state", to=TensorProto.UINT8)


def _candidates() -> Iterator[NodeProto]:
    """`int8_state` -> `int8_rows` [B, M] and `int8_best`, -inf where no row is eligible.

    The state's scale is left out: it is the same for all rows of a request.
    """
    product = [f"{PREFIX}state", CODES, f"{PREFIX}zero"]
    yield _node("MatMulInteger", product, f"{PREFIX}sums")
    yield _node("Cast", [f"{PREFIX}sums"], f"{PREFIX}floats", to=TensorProto.FLOAT)
    yield _node("Mul", [f"{PREFIX}floats", SCALES], f"{PREFIX}scores")
    yield _node("Gather", ["bias", "bias_row"], f"{PREFIX}bias")
    yield _node("Add", [f"{PREFIX}scores", f"{PREFIX}bias"], f"{PREFIX}allowed")
    yield _node("Shape", ["excluded"], f"{PREFIX}excluded")
    yield _node("Expand", [f"{PREFIX}never", f"{PREFIX}excluded"], f"{PREFIX}nevers")
    barred = [f"{PREFIX}allowed", "excluded", f"{PREFIX}nevers"]
    yield _node("ScatterElements", barred, f"{PREFIX}final", axis=1)
    yield _node("Mul", ["k", f"{PREFIX}oversample"], f"{PREFIX}times")
    yield _node("Add", [f"{PREFIX}times", f"{PREFIX}margin"], f"{PREFIX}wanted")
    yield _node("Shape", ["bias"], f"{PREFIX}capacity", start=1, end=2)
    yield _node("Min", [f"{PREFIX}wanted", f"{PREFIX}capacity"], f"{PREFIX}most")
    yield helper.make_node(
        "TopK",
        [f"{PREFIX}final", f"{PREFIX}most"],
        [f"{PREFIX}best", f"{PREFIX}rows"],
        name=f"{PREFIX}choose",
        axis=1,
    )


def _scored_again(state: str) -> Iterator[NodeProto]:
    """`int8_rows` -> `rows` and `scores` [B, K], as the fp32 table has it."""
    yield _node("Gather", [TABLE, f"{PREFIX}rows"], f"{PREFIX}vectors", axis=0)
    yield _node("Unsqueeze", [state, f"{PREFIX}two"], f"{PREFIX}column")
    yield _node("MatMul", [f"{PREFIX}vectors", f"{PREFIX}column"], f"{PREFIX}products")
    yield _node("Squeeze", [f"{PREFIX}products", f"{PREFIX}two"], f"{PREFIX}exact")
    yield _node("Equal", [f"{PREFIX}best", f"{PREFIX}never"], f"{PREFIX}barred")
    barred = [f"{PREFIX}barred", f"{PREFIX}never", f"{PREFIX}exact"]
    yield _node("Where", barred, f"{PREFIX}again")
    yield helper.make_node(
        "TopK", [f"{PREFIX}again", "k"], ["scores", f"{PREFIX}places"], name="scores", axis=1
    )
    found = [f"{PREFIX}rows", f"{PREFIX}places"]
    yield _node("GatherElements", found, "rows", axis=1)


def _constants() -> Constants:
    constants: Constants = {
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "least": np.array(LEAST, np.float32),
        "levels": np.array(STATE_LEVELS, np.float32),
        "middle": np.array(STATE_ZERO, np.float32),
        "zero": np.array(STATE_ZERO, np.uint8),
        "never": np.array([-np.inf], np.float32),
        "oversample": np.array([OVERSAMPLE], np.int64),
        "margin": np.array([MARGIN], np.int64),
    }
    return {f"{PREFIX}{name}": array for name, array in constants.items()}


def _needed(nodes: list[NodeProto], outputs: list[str]) -> list[NodeProto]:
    """Return the nodes that the outputs follow from, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _drop_unused(graph: GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
