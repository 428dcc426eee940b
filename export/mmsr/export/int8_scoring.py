"""fp32 sequence graph -> the same graph, which chooses candidates by 8-bit codes.

All rows are scored by an integer product of their codes (`mmsr.engine.quantise`) with the state's,
filters applied; the best of them are gathered from the fp32 table and scored as before, so that
every returned score is fp32's. Knows ONNX, nothing of recommenders.

ONNX Runtime's product of uint8 and int8 adds pairs in 16 bits on processors without VNNI, and
clamps: 255 * 127 * 2 does not fit. So the state has seven bits, which fit exactly.
"""

# B batch, D width, T table rows, of which C are bound, M candidates, K results

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
STATES = "states"
PREFIX = "int8_"

Constants = dict[str, npt.NDArray[Any]]


def write_int8_scoring(source: Path, target: Path) -> None:
    """Write the sequence graph `source` to `target` with two more inputs, the codes.

    `PrecisionError` for any other graph.
    """
    model = onnx.load(source)
    graph = model.graph
    inputs = {value.name: value for value in graph.input}
    names = {*inputs, *(output.name for output in graph.output)}
    for name in (TABLE, "excluded", "k", STATES):
        if name not in names:
            raise PrecisionError(f"{source.name}: no {name!r}, expected a sequence graph")
    columns = inputs[TABLE].type.tensor_type.shape.dim[1]
    width = columns.dim_param or columns.dim_value
    kept = [n for n in graph.node if not {"rows", "scores"} & set(n.output)]
    nodes = [*kept, *_nodes(STATES)]
    del graph.node[:]
    graph.node.extend(_needed(nodes, [output.name for output in graph.output]))
    graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in _constants().items())
    _drop_unused(graph)
    # As many columns as the whole table has rows, also where fewer are bound.
    codes = helper.make_tensor_value_info(CODES, TensorProto.INT8, [width, "T"])
    scales = helper.make_tensor_value_info(SCALES, TensorProto.FLOAT, ["T"])
    graph.input.extend([codes, scales])
    del graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


def _nodes(state: str) -> Iterator[NodeProto]:
    yield from _quantised(state)
    yield from _candidates()
    yield from _scored_again(state)


def node(op: str, inputs: Sequence[str], output: str, **attributes: int | list[int]) -> NodeProto:
    """Return a node of one output, by which it is named."""
    made = helper.make_node(op, list(inputs), [output], name=output)
    made.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    return made


def _quantised(state: str) -> Iterator[NodeProto]:
    """State [B, D] -> `int8_state` uint8 [B, D], each request by its own largest entry."""
    yield node("Abs", [state], f"{PREFIX}sizes")
    yield node("ReduceMax", [f"{PREFIX}sizes", f"{PREFIX}one"], f"{PREFIX}largest", keepdims=1)
    yield node("Max", [f"{PREFIX}largest", f"{PREFIX}least"], f"{PREFIX}scale")
    yield node("Div", [state, f"{PREFIX}scale"], f"{PREFIX}share")
    yield node("Mul", [f"{PREFIX}share", f"{PREFIX}levels"], f"{PREFIX}level")
    yield node("Round", [f"{PREFIX}level"], f"{PREFIX}rounded")
    yield node("Add", [f"{PREFIX}rounded", f"{PREFIX}middle"], f"{PREFIX}shifted")
    yield node("Cast", [f"{PREFIX}shifted"], f"{PREFIX}state", to=TensorProto.UINT8)


def _candidates() -> Iterator[NodeProto]:
    """`int8_state` -> `int8_rows` [B, M] and `int8_best`, -inf where no row is eligible.

    The state's scale is left out: it is the same for all rows of a request.
    """
    product = [f"{PREFIX}state", CODES, f"{PREFIX}zero"]
    yield node("MatMulInteger", product, f"{PREFIX}all_sums")
    yield node("Shape", [TABLE], f"{PREFIX}bound", start=0, end=1)
    bound = [f"{PREFIX}none", f"{PREFIX}bound"]
    yield node("Slice", [f"{PREFIX}all_sums", *bound, f"{PREFIX}one"], f"{PREFIX}sums")
    yield node("Slice", [SCALES, *bound, f"{PREFIX}none"], f"{PREFIX}scales")
    yield node("Cast", [f"{PREFIX}sums"], f"{PREFIX}floats", to=TensorProto.FLOAT)
    yield node("Mul", [f"{PREFIX}floats", f"{PREFIX}scales"], f"{PREFIX}scores")
    yield node("Shape", ["excluded"], f"{PREFIX}excluded")
    yield node("Expand", [f"{PREFIX}never", f"{PREFIX}excluded"], f"{PREFIX}nevers")
    barred = [f"{PREFIX}scores", "excluded", f"{PREFIX}nevers"]
    yield node("ScatterElements", barred, f"{PREFIX}final", axis=1)
    yield node("Mul", ["k", f"{PREFIX}oversample"], f"{PREFIX}times")
    yield node("Add", [f"{PREFIX}times", f"{PREFIX}margin"], f"{PREFIX}wanted")
    yield node("Min", [f"{PREFIX}wanted", f"{PREFIX}bound"], f"{PREFIX}most")
    yield helper.make_node(
        "TopK",
        [f"{PREFIX}final", f"{PREFIX}most"],
        [f"{PREFIX}best", f"{PREFIX}rows"],
        name=f"{PREFIX}choose",
        axis=1,
    )


def _scored_again(state: str) -> Iterator[NodeProto]:
    """`int8_rows` -> `rows` and `scores` [B, K], as the fp32 table has it."""
    yield node("Gather", [TABLE, f"{PREFIX}rows"], f"{PREFIX}vectors", axis=0)
    yield node("Unsqueeze", [state, f"{PREFIX}two"], f"{PREFIX}column")
    yield node("MatMul", [f"{PREFIX}vectors", f"{PREFIX}column"], f"{PREFIX}products")
    yield node("Squeeze", [f"{PREFIX}products", f"{PREFIX}two"], f"{PREFIX}exact")
    yield node("Equal", [f"{PREFIX}best", f"{PREFIX}never"], f"{PREFIX}barred")
    barred = [f"{PREFIX}barred", f"{PREFIX}never", f"{PREFIX}exact"]
    yield node("Where", barred, f"{PREFIX}again")
    yield helper.make_node(
        "TopK", [f"{PREFIX}again", "k"], ["scores", f"{PREFIX}places"], name="scores", axis=1
    )
    found = [f"{PREFIX}rows", f"{PREFIX}places"]
    yield node("GatherElements", found, "rows", axis=1)


def _constants() -> Constants:
    constants: Constants = {
        "none": np.array([0], np.int64),
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
