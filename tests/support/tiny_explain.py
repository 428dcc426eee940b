"""An explain graph for the small bundle: true ONNX, its model as simple as the sequence graph's.

With all sources on, the state is the mean of the history's item inputs, as there. A source that is
out takes its share off: the state is the mean times the shares of the sources that are on. The
attention is even.
"""

# B batch, L history length, M candidates

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper
from support.tiny_bundle import ONNX_TYPES, Sizes, manifest_of, seal

from mmsr.bundle.manifest import GraphSpec, Manifest, TensorSpec

SHARES = {"id": 0.5, "position": 0.125, "text": 0.375}
INPUTS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "history": ("int64", ("B", "L")),
    "length": ("int64", ("B",)),
    "candidates": ("int64", ("B", "M")),
    "switches": ("float32", ("B", len(SHARES))),
    "item_inputs": ("float32", ("C", "W")),
    "item_outputs": ("float32", ("C", "D")),
}
OUTPUTS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "scores": ("float32", ("B", "M")),
    "attention": ("float32", ("B", "L")),
}


def add_explain(folder: Path, sizes: Sizes) -> None:
    """Write explain.onnx into a bundle of those sizes, and its manifest anew."""
    (folder / "explain.onnx").write_bytes(explain_graph(sizes.width))
    (folder / "manifest.json").unlink()
    seal(folder, explained_manifest(sizes))


def explained_manifest(sizes: Sizes) -> Manifest:
    """Return the small bundle's manifest with the graph and the model's sources in it."""
    return explaining(manifest_of(sizes))


def with_explain(folder: Path, manifest: Manifest) -> Manifest:
    """Write explain.onnx into a bundle that is being made; return its manifest with it."""
    (folder / "explain.onnx").write_bytes(explain_graph(manifest.tables.output_width))
    return explaining(manifest)


def explaining(manifest: Manifest) -> Manifest:
    """Return a manifest with the graph and the model's sources in it."""
    sources = ["position", "id", "text"]  # the id comes first all the same
    return replace(
        manifest,
        graphs=manifest.graphs | {"explain": explain_spec()},
        model={**manifest.model, "sources": sources},
    )


def explain_spec() -> GraphSpec:
    """Return what the manifest says of the graph."""
    inputs, outputs = (
        tuple(TensorSpec(name=name, dtype=dtype, shape=shape) for name, (dtype, shape) in what)
        for what in (INPUTS.items(), OUTPUTS.items())
    )
    return GraphSpec(file="explain.onnx", inputs=inputs, outputs=outputs)


def explain_graph(width: int) -> bytes:
    """Return the serialised graph."""
    constants: dict[str, npt.NDArray[Any]] = {
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "width": np.array([width], np.int64),
        "range_start": np.array(0, np.int64),
        "range_step": np.array(1, np.int64),
        "shares_S1": np.array([*SHARES.values()], np.float32)[:, None],
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["item_inputs", "history"], ["history_BLW"]),
        node("Slice", ["history_BLW", "zero", "width", "two"], ["history_BLD"]),
        node("Shape", ["history"], ["history_shape"]),
        node("Gather", ["history_shape", "range_step"], ["longest"]),
        node("Range", ["range_start", "longest", "range_step"], ["places_L"]),
        node("Unsqueeze", ["length", "one"], ["length_B1"]),
        node("Less", ["places_L", "length_B1"], ["real_BL"]),
        node("Cast", ["real_BL"], ["weight_BL"], to=TensorProto.FLOAT),
        node("Cast", ["length_B1"], ["count_B1"], to=TensorProto.FLOAT),
        node("Div", ["weight_BL", "count_B1"], ["attention"]),
        node("Unsqueeze", ["attention", "two"], ["attention_BL1"]),
        node("Mul", ["history_BLD", "attention_BL1"], ["weighted_BLD"]),
        node("ReduceSum", ["weighted_BLD", "one"], ["mean_BD"], keepdims=0),
        node("MatMul", ["switches", "shares_S1"], ["share_B1"]),
        node("Mul", ["mean_BD", "share_B1"], ["state_BD"]),
        node("Unsqueeze", ["state_BD", "two"], ["state_BD1"]),
        node("Gather", ["item_outputs", "candidates"], ["outputs_BMD"]),
        node("MatMul", ["outputs_BMD", "state_BD1"], ["scores_BM1"]),
        node("Squeeze", ["scores_BM1", "two"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "explain",
        [_value(name, *what) for name, what in INPUTS.items()],
        [_value(name, *what) for name, what in OUTPUTS.items()],
        [
            helper.make_tensor(name, ONNX_TYPES[str(array.dtype)], array.shape, array.flatten())
            for name, array in constants.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def _value(name: str, dtype: str, shape: tuple[int | str, ...]) -> Any:
    return helper.make_tensor_value_info(name, ONNX_TYPES[dtype], shape)
