"""A graph with bfloat16 in it -> the same computation where there are no bfloat16 kernels.

ONNX Runtime's CPU provider has none but `Cast`. Every value that the graph keeps in bfloat16 is
computed in fp32 and rounded, as accelerators do, which add up in fp32. For the gate; far too slow
to be served.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from mmsr.export.precision import BRAIN, FLOAT, graph_types


def write_emulated(source: Path, target: Path) -> None:
    """Write the graph `source` to `target` with fp32 in place of bfloat16, each value rounded."""
    model = onnx.load(source)
    graph = model.graph
    types = graph_types(onnx.shape_inference.infer_shapes(model, strict_mode=True).graph)
    for initializer in graph.initializer:
        if initializer.data_type == BRAIN:
            values = numpy_helper.to_array(initializer).astype(np.float32)
            initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))
    nodes = [made for node in graph.node for made in _rounded(node, types)]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


def _rounded(node: NodeProto, types: dict[str, int]) -> Iterator[NodeProto]:
    """Yield the node in fp32, then the rounding of its outputs."""
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == BRAIN:
            attribute.i = FLOAT
        elif attribute.name == "value" and attribute.t.data_type == BRAIN:
            values = numpy_helper.to_array(attribute.t).astype(np.float32)
            attribute.t.CopyFrom(numpy_helper.from_array(values))
    rounded = [(place, name) for place, name in enumerate(node.output) if types.get(name) == BRAIN]
    for place, name in rounded:
        node.output[place] = f"{name}_exact"
    yield node
    for _, name in rounded:
        yield helper.make_node("Cast", [f"{name}_exact"], [f"{name}_short"], to=BRAIN)
        yield helper.make_node("Cast", [f"{name}_short"], [name], to=FLOAT)
