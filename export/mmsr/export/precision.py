"""fp32 graph -> the same graph in half precision, its types written into it.

TensorRT's networks are strongly typed: precision is what the ONNX file says, there is no flag.
Knows ONNX, nothing of recommenders or of what runs the graph.

A node stays in fp32 where ONNX has no half version of it, where half would lose its answer
(`KEPT`), or where it reads a constant that half cannot hold (a divisor of 1e-6, a mask of -3e38):
so no constant is clamped and no divisor becomes zero.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, defs, helper, numpy_helper

from mmsr.bundle.errors import MmsrError

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
# Sums and squares leave the range of half at 65504 and vanish below 6e-8; the difference of two
# near numbers (a feature less its mean) is mostly rounding.
KEPT = frozenset({"ReduceL2", "ReduceSumSquare", "ReduceSum", "Pow", "Sqrt", "Exp", "Log", "Sub"})
LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).tiny)  # of those with all ten bits
# Of a graph whose tables are bound once: they are what a request reads most of, so half the bytes.
SEQUENCE_HALF_INPUTS = ("item_inputs", "item_outputs", "bias")


class PrecisionError(MmsrError):
    """A graph cannot be written in another precision."""


def write_half(source: Path, target: Path, half_inputs: Collection[str] = ()) -> None:
    """Write the fp32 graph `source` to `target` in half precision.

    Inputs and outputs keep their types, but for the `half_inputs`, which become float16: whoever
    binds them converts them once. `PrecisionError` for a graph with branches or loops.
    """
    model = onnx.load(source)
    _check(source, model.graph, half_inputs)
    _constants_to_initializers(model.graph)
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    _Conversion(model.graph, _types(typed), opset, set(half_inputs)).apply()
    del model.graph.value_info[:]  # says the old types
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


def _check(source: Path, graph: GraphProto, half_inputs: Collection[str]) -> None:
    nested = [
        n.name or n.op_type
        for n in graph.node
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in n.attribute)
    ]
    if nested:
        raise PrecisionError(f"{source.name}: node {nested[0]!r} holds a graph of its own")
    floats = {i.name for i in graph.input if i.type.tensor_type.elem_type == FLOAT}
    unknown = sorted(set(half_inputs) - floats)
    if unknown:
        raise PrecisionError(
            f"{source.name}: no fp32 input {unknown[0]!r}; there are: {', '.join(sorted(floats))}"
        )


def _constants_to_initializers(graph: GraphProto) -> None:
    """Make every `Constant` node an initializer: one kind of constant is enough below."""
    kept = []
    for node in graph.node:
        values = [a.t for a in node.attribute if a.name == "value"]
        if node.op_type == "Constant" and values:
            tensor = TensorProto()
            tensor.CopyFrom(values[0])
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _types(graph: GraphProto) -> dict[str, int]:
    """Return the element type of every value, constants among them."""
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {i.name: i.data_type for i in graph.initializer}


@dataclass
class _Conversion:
    """The rewriting of one graph, node by node, in the order of computation."""

    graph: GraphProto
    types: dict[str, int]  # of the fp32 graph
    opset: int
    half: set[str]  # values that are computed, or come, in half
    nodes: list[NodeProto] = field(default_factory=list)
    renamed: dict[tuple[str, int], str] = field(default_factory=dict)  # (value, type) -> its copy

    def apply(self) -> None:
        """Change the graph in place."""
        self.constants = {i.name: i for i in self.graph.initializer}
        self.outputs = {o.name for o in self.graph.output}
        for value in self.graph.input:
            if value.name in self.half:
                value.type.tensor_type.elem_type = HALF
        for node in list(self.graph.node):
            self._add(node)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        self._drop_unused_constants()

    def _add(self, node: NodeProto) -> None:
        halved = self._may_be_half(node)
        for place, name in enumerate(node.input):
            if self.types.get(name) == FLOAT:
                wanted = HALF if halved and _takes_half(node, place, self.opset) else FLOAT
                node.input[place] = self._as(name, wanted)
        self.nodes.append(node)
        if halved:
            _retarget(node)
            for place, name in enumerate(node.output):
                self._halve_output(node, place, name)

    def _halve_output(self, node: NodeProto, place: int, name: str) -> None:
        if self.types.get(name) != FLOAT:
            return
        if name not in self.outputs:
            self.half.add(name)
            return
        inner = self.renamed[name, HALF] = f"{name}_half"
        node.output[place] = inner
        self.nodes.append(helper.make_node("Cast", [inner], [name], f"{name}_to_float", to=FLOAT))

    def _may_be_half(self, node: NodeProto) -> bool:
        floats = [n for n in (*node.input, *node.output) if self.types.get(n) == FLOAT]
        if not floats or node.op_type in KEPT or node.domain not in ("", "ai.onnx"):
            return False
        given = [i for i, name in enumerate(node.output) if self.types.get(name) == FLOAT]
        if not all(_gives_half(node, place, self.opset) for place in given):
            return False
        return all(
            _fits(self.constants[name], divides=node.op_type == "Div" and place == 1)
            for place, name in enumerate(node.input)
            if self.types.get(name) == FLOAT and name in self.constants
        )

    def _as(self, name: str, wanted: int) -> str:
        """Return the name under which the value is to be had in the wanted type."""
        if (HALF if name in self.half else FLOAT) == wanted:
            return name
        known = self.renamed.get((name, wanted))
        if known is not None:
            return known
        copy = f"{name}_{'half' if wanted == HALF else 'float'}"
        if name in self.constants:
            values = numpy_helper.to_array(self.constants[name]).astype(np.float16)
            self.graph.initializer.append(numpy_helper.from_array(values, copy))
        else:
            self.nodes.append(helper.make_node("Cast", [name], [copy], copy, to=wanted))
        self.renamed[name, wanted] = copy
        return copy

    def _drop_unused_constants(self) -> None:
        used = {name for node in self.nodes for name in node.input} | self.outputs
        kept = [i for i in self.graph.initializer if i.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)


def _fits(constant: TensorProto, *, divides: bool) -> bool:
    """Return whether half holds the constant's values; infinite ones it does."""
    sizes = np.abs(numpy_helper.to_array(constant))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if sizes.size == 0:
        return True
    # A weight near zero among larger ones loses nothing that counts; a divisor near zero does.
    least = sizes.min() if divides else sizes.max()
    return bool(sizes.max() <= LARGEST and least >= SMALLEST)


def _retarget(node: NodeProto) -> None:
    """Make the types that a node's attributes name half ones."""
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == FLOAT:
            attribute.i = HALF
        elif attribute.name == "value" and attribute.t.data_type == FLOAT:
            values = numpy_helper.to_array(attribute.t).astype(np.float16)
            attribute.t.CopyFrom(numpy_helper.from_array(values))


def _gives_half(node: NodeProto, place: int, opset: int) -> bool:
    return _allows_half(node, defs.get_schema(node.op_type, opset).outputs, place)


def _takes_half(node: NodeProto, place: int, opset: int) -> bool:
    return _allows_half(node, defs.get_schema(node.op_type, opset).inputs, place)


def _allows_half(
    node: NodeProto, formal: Collection[defs.OpSchema.FormalParameter], place: int
) -> bool:
    parameters = list(formal)
    if not parameters:
        return False
    return "tensor(float16)" in parameters[min(place, len(parameters) - 1)].types


def half_nodes(path: Path) -> Iterator[str]:
    """Yield the operators that compute in half, for reports and tests."""
    model = onnx.load(path)
    types = _types(onnx.shape_inference.infer_shapes(model).graph)
    for node in model.graph.node:
        if node.op_type != "Cast" and HALF in [types.get(name) for name in node.input]:
            yield node.op_type
