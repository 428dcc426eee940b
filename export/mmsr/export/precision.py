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
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, defs, helper, numpy_helper

from mmsr.bundle.errors import MmsrError

FLOAT, HALF, BRAIN = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
NUMPY: dict[int, np.dtype[Any]] = {HALF: np.dtype(np.float16), BRAIN: np.dtype(ml_dtypes.bfloat16)}
# Sums and squares leave the range of half at 65504 and vanish below 6e-8; the difference of two
# near numbers (a feature less its mean) is mostly rounding.
KEPT = frozenset({"ReduceL2", "ReduceSumSquare", "ReduceSum", "Pow", "Sqrt", "Exp", "Log", "Sub"})
LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).tiny)  # of those with all ten bits
# What lays out a whole table anew and computes nothing.
LAYOUT = frozenset({"Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
HALF_COPY = "_half"  # ends the name of a constant's copy in half
# Of a graph whose tables are bound once: they are what a request reads most of, so half the bytes.
SEQUENCE_HALF_INPUTS = ("item_inputs", "item_outputs")


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
    _convert(model, HALF, set(half_inputs), set())
    onnx.save(model, target)


def write_bfloat16(source: Path, target: Path) -> None:
    """Write the sequence graph `source` to `target`, its blocks in bfloat16.

    Scores and what chooses among them stay in fp32: eight bits do not tell neighbours apart. So do
    the tables, of which a request reads a few rows.
    """
    model = onnx.load(source)
    _check(source, model.graph, SEQUENCE_HALF_INPUTS)
    _constants_to_initializers(model.graph)
    _convert(model, BRAIN, set(), _of_tables(model.graph))
    onnx.save(model, target)


def _convert(model: onnx.ModelProto, kind: int, half: set[str], single: set[str]) -> None:
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    _Conversion(model.graph, graph_types(typed), opset, half, kind=kind, single=single).apply()
    del model.graph.value_info[:]  # says the old types
    onnx.checker.check_model(model, full_check=True)


def _of_tables(graph: GraphProto) -> set[str]:
    """Return the values that are tables, however laid out, or follow from scores."""
    laid_out, scored = {"item_inputs"}, {"item_outputs"}
    for node in graph.node:
        if scored & set(node.input):
            scored.update(node.output)
        elif node.op_type in LAYOUT and node.input[0] in laid_out:
            laid_out.update(node.output)
    return laid_out | scored


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


def graph_types(graph: GraphProto) -> dict[str, int]:
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
    kind: int = HALF  # or bfloat16
    single: set[str] = field(default_factory=set)  # whatever reads one of these stays in fp32

    def apply(self) -> None:
        """Change the graph in place."""
        self.constants = {i.name: i for i in self.graph.initializer}
        self.outputs = {o.name for o in self.graph.output}
        for value in self.graph.input:
            if value.name in self.half:
                value.type.tensor_type.elem_type = self.kind
        for node in list(self.graph.node):
            self._add(node)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        self._drop_unused_constants()

    def _add(self, node: NodeProto) -> None:
        halved = self._may_be_half(node)
        for place, name in enumerate(node.input):
            if self.types.get(name) == FLOAT:
                wanted = self.kind if halved and self._takes_half(node, place) else FLOAT
                node.input[place] = self._as(name, wanted)
        self.nodes.append(node)
        if halved:
            _retarget(node, self.kind)
            for place, name in enumerate(node.output):
                self._halve_output(node, place, name)

    def _halve_output(self, node: NodeProto, place: int, name: str) -> None:
        if self.types.get(name) != FLOAT:
            return
        if name not in self.outputs:
            self.half.add(name)
            return
        inner = self.renamed[name, self.kind] = f"{name}{HALF_COPY}"
        node.output[place] = inner
        self.nodes.append(helper.make_node("Cast", [inner], [name], f"{name}_to_float", to=FLOAT))

    def _may_be_half(self, node: NodeProto) -> bool:
        floats = [n for n in (*node.input, *node.output) if self.types.get(n) == FLOAT]
        if not floats or node.op_type in KEPT or node.domain not in ("", "ai.onnx"):
            return False
        if self.single & set(node.input):
            return False
        given = [i for i, name in enumerate(node.output) if self.types.get(name) == FLOAT]
        if not all(self._gives_half(node, place) for place in given):
            return False
        return all(
            _fits(self.constants[name], self.kind, divides=node.op_type == "Div" and place == 1)
            for place, name in enumerate(node.input)
            if self.types.get(name) == FLOAT and name in self.constants
        )

    def _as(self, name: str, wanted: int) -> str:
        """Return the name under which the value is to be had in the wanted type."""
        if (self.kind if name in self.half else FLOAT) == wanted:
            return name
        known = self.renamed.get((name, wanted))
        if known is not None:
            return known
        copy = f"{name}{'_float' if wanted == FLOAT else HALF_COPY}"
        if name in self.constants:
            values = numpy_helper.to_array(self.constants[name]).astype(NUMPY[wanted])
            self.graph.initializer.append(numpy_helper.from_array(values, copy))
        else:
            self.nodes.append(helper.make_node("Cast", [name], [copy], copy, to=wanted))
        self.renamed[name, wanted] = copy
        return copy

    def _gives_half(self, node: NodeProto, place: int) -> bool:
        schema = defs.get_schema(node.op_type, self.opset)
        return _allows(self.kind, schema.outputs, place)

    def _takes_half(self, node: NodeProto, place: int) -> bool:
        schema = defs.get_schema(node.op_type, self.opset)
        return _allows(self.kind, schema.inputs, place)

    def _drop_unused_constants(self) -> None:
        used = {name for node in self.nodes for name in node.input} | self.outputs
        kept = [i for i in self.graph.initializer if i.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)


def _fits(constant: TensorProto, kind: int, *, divides: bool) -> bool:
    """Return whether half holds the constant's values; infinite ones it does."""
    if kind == BRAIN:  # has the range of fp32
        return True
    sizes = np.abs(numpy_helper.to_array(constant))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if sizes.size == 0:
        return True
    # A weight near zero among larger ones loses nothing that counts; a divisor near zero does.
    least = sizes.min() if divides else sizes.max()
    return bool(sizes.max() <= LARGEST and least >= SMALLEST)


def _retarget(node: NodeProto, kind: int) -> None:
    """Make the types that a node's attributes name half ones."""
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == FLOAT:
            attribute.i = kind
        elif attribute.name == "value" and attribute.t.data_type == FLOAT:
            values = numpy_helper.to_array(attribute.t).astype(NUMPY[kind])
            attribute.t.CopyFrom(numpy_helper.from_array(values))


def _allows(kind: int, formal: Collection[defs.OpSchema.FormalParameter], place: int) -> bool:
    parameters = list(formal)
    if not parameters:
        return False
    wanted = "tensor(float16)" if kind == HALF else "tensor(bfloat16)"
    return wanted in parameters[min(place, len(parameters) - 1)].types


def half_nodes(path: Path) -> Iterator[str]:
    """Yield the operators that compute in half, for reports and tests."""
    model = onnx.load(path)
    types = graph_types(onnx.shape_inference.infer_shapes(model).graph)
    for node in model.graph.node:
        if node.op_type != "Cast" and {HALF, BRAIN} & {types.get(name) for name in node.input}:
            yield node.op_type
