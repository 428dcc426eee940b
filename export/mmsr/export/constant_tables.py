"""The sequence graph for servers that cannot bind arrays: its tables are weights in it.

Every input that remains, and every output, has one line a request, as servers that batch want it.
The tables are not copied into the graph: it refers to the bytes of the .npy files of the
bundle, which must lie beside it. Needs no torch.
"""

# B requests, L history items, E exclusions, C table rows, K results

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import GraphSpec, TensorSpec
from mmsr.engine.opened import ITEM_INPUTS, ITEM_OUTPUTS, OpenedBundle
from mmsr.engine.precision import FP32, precision_of

TABLES = {"item_inputs": ITEM_INPUTS, "item_outputs": ITEM_OUTPUTS}
REQUEST_INPUTS = ("history", "length", "excluded", "k")
OUTPUTS = ("rows", "scores")
K_EACH = TensorSpec(name="k", dtype="int64", shape=("B", 1))


def write_constant_graph(bundle: OpenedBundle, path: Path) -> GraphSpec:
    """Write the graph to `path`; the caller puts the table files beside it.

    What is no item, or not available by the bundle's catalogue, is barred by one number a row; `k`
    becomes int64 [B, 1], of which the largest holds for all. The states are no output.
    `BundleError` for a graph with other inputs.
    """
    precision = precision_of(bundle.manifest)
    if precision != FP32:
        raise BundleError(
            f"{bundle.sequence_path} is in {precision}, for Triton it must be in fp32; export the "
            "model with --precision fp32"
        )
    model = onnx.load(bundle.sequence_path)
    graph = model.graph
    known = {*TABLES, *REQUEST_INPUTS}
    unknown = sorted({value.name for value in graph.input} ^ known)
    if unknown:
        raise BundleError(
            f"{bundle.sequence_path}: inputs {', '.join(unknown)} are not as this release exports "
            "them; export the model again"
        )
    for name, file in TABLES.items():
        _replace_input(graph, name, _external(bundle.folder / file, name))
    _bar_unavailable(bundle, graph)
    _k_per_request(graph)
    [states] = [value for value in graph.output if value.name not in OUTPUTS]
    graph.output.remove(states)
    first = [
        helper.make_node("ReduceMax", ["k"], ["mmsr_k"], keepdims=0),
        helper.make_node("Reshape", ["mmsr_k", "mmsr_one"], ["mmsr_most_k"]),
    ]
    nodes = [*first, *graph.node]
    graph.initializer.append(_int64([1], "mmsr_one"))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    path.write_bytes(model.SerializeToString())
    kept = [tensor for tensor in bundle.sequence_spec.inputs if tensor.name in REQUEST_INPUTS]
    inputs = tuple(K_EACH if tensor.name == "k" else tensor for tensor in kept)
    outputs = tuple(t for t in bundle.sequence_spec.outputs if t.name in OUTPUTS)
    return GraphSpec(file=path.name, inputs=inputs, outputs=outputs)


def _bar_unavailable(bundle: OpenedBundle, graph: onnx.GraphProto) -> None:
    """Add 0 or -inf to each row's scores, before the exclusions are written into them."""
    bias_C = np.full(bundle.manifest.tables.capacity, -np.inf, np.float32)
    bias_C[1 : len(bundle.catalogue) + 1][bundle.catalogue.available] = 0.0
    found = [place for place, node in enumerate(graph.node) if node.op_type == "ScatterElements"]
    if len(found) != 1:
        raise BundleError(
            f"{bundle.sequence_path}: {len(found)} nodes write exclusions, expected one; export "
            "the model again"
        )
    scatter = graph.node[found[0]]
    [rows_last] = [attribute.i == 1 for attribute in scatter.attribute if attribute.name == "axis"]
    bias = bias_C[None, :] if rows_last else bias_C[:, None]
    graph.initializer.append(numpy_helper.from_array(bias, "mmsr_bias"))
    add = helper.make_node("Add", [scatter.input[0], "mmsr_bias"], ["mmsr_eligible"])
    scatter.input[0] = "mmsr_eligible"
    nodes = list(graph.node)
    nodes.insert(found[0], add)
    del graph.node[:]
    graph.node.extend(nodes)


def _k_per_request(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == "k":
                node.input[place] = "mmsr_most_k"
    _remove_input(graph, "k")
    graph.input.append(helper.make_tensor_value_info("k", TensorProto.INT64, ["B", 1]))


def _remove_input(graph: onnx.GraphProto, name: str) -> onnx.ValueInfoProto:
    [value] = [value for value in graph.input if value.name == name]
    graph.input.remove(value)
    return value


def _replace_input(graph: onnx.GraphProto, name: str, tensor: TensorProto) -> None:
    wanted = _remove_input(graph, name).type.tensor_type.elem_type
    if tensor.data_type != wanted:
        raise BundleError(
            f"input {name!r} of the graph has element type {TensorProto.DataType.Name(wanted)}, "
            f"its table has {TensorProto.DataType.Name(tensor.data_type)}; export the model again"
        )
    graph.initializer.append(tensor)


def _external(table: Path, name: str) -> TensorProto:
    """Return a tensor whose data are those of a .npy file of the same name beside the graph."""
    array: npt.NDArray[np.generic] = np.load(table, mmap_mode="r", allow_pickle=False)
    assert isinstance(array, np.memmap)
    tensor = TensorProto(
        name=name,
        dims=array.shape,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in (
        ("location", table.name),
        ("offset", str(array.offset)),
        ("length", str(array.nbytes)),
    ):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _int64(values: list[int], name: str = "") -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)
