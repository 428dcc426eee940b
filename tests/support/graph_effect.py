"""How much a change of an exported graph is felt: both graphs on the same made-up inputs."""

# B users, L history length, N items

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

Arrays = dict[str, npt.NDArray[Any]]
SIZES = {"B": 24, "L": 8, "E": 1, "M": 24, "S": 1, "n": 24, "T": 9}
FAILURES = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.RuntimeException,
    RuntimeError,
)


def effect(bundle: Path, good: Path, bad: Path) -> float:
    """Return the largest difference of an output, relative to its largest entry.

    Infinite where the changed graph cannot be computed. The tables are those of `bundle`.
    """
    inputs = _inputs(bundle, onnx.load(good, load_external_data=False).graph)
    wanted = _outputs(good, inputs)
    try:
        found = _outputs(bad, inputs)
    except FAILURES:
        return float("inf")
    return max(_difference(one, other) for one, other in zip(found, wanted, strict=True))


def _difference(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    return float(np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max()))


def _outputs(path: Path, inputs: Arrays) -> list[npt.NDArray[Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs() if node.name != "rows"]  # they may tie
    outputs: list[npt.NDArray[Any]] = session.run(names, inputs)
    return outputs


def _inputs(bundle: Path, graph: onnx.GraphProto) -> Arrays:
    random = np.random.default_rng(0)
    tables = {name: np.load(bundle / f"tables/{name}.npy") for name in ("item_inputs", "ids")}
    items = len(tables["ids"]) - 1
    known: Arrays = {
        "length": random.integers(1, SIZES["L"] + 1, SIZES["B"]),
        "excluded": np.zeros((SIZES["B"], 1), np.int64),
        "k": np.array([items], np.int64),
        "item_inputs": tables["item_inputs"],
        "item_outputs": np.load(bundle / "tables/item_outputs.npy"),
        "id_table": tables["ids"],
        "switches": _switches(graph),
        "attention_mask": np.ones((SIZES["B"], SIZES["T"]), np.int64),
    }
    return {
        value.name: known.get(value.name, _drawn(value.type.tensor_type, items, random))
        for value in graph.input
    }


def _switches(graph: onnx.GraphProto) -> npt.NDArray[np.float32]:
    """Leave each source out of some requests and none out of some, as the gate does."""
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.input}
    sources = shapes["switches"][1].dim_value if "switches" in shapes else 1
    switches_BS = np.ones((SIZES["B"], sources), np.float32)
    for request in range(SIZES["B"]):
        switches_BS[request, request % (sources + 1) : request % (sources + 1) + 1] = 0.0
    return switches_BS


def _drawn(kind: Any, items: int, random: np.random.Generator) -> npt.NDArray[Any]:
    shape = [dim.dim_value or SIZES.get(dim.dim_param, 1) for dim in kind.shape.dim]
    if kind.elem_type == onnx.TensorProto.FLOAT:
        return random.normal(size=shape).astype(np.float32)
    if kind.elem_type == onnx.TensorProto.BOOL:
        return random.random(shape) < 0.5
    if kind.elem_type == onnx.TensorProto.UINT8:
        return random.integers(0, 256, shape, dtype=np.uint8)
    return random.integers(1, items + 1, shape)
