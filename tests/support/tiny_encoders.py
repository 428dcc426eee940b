"""A small bundle with encoders: real graphs whose answers a test can say by heart.

An image's feature is the mean of each colour; a text's the sum and the number of its token ids.
"""

# B rows, T tokens

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from support.tiny_bundle import Shop, Sizes, make_twin, manifest_of, seal, write_files

from mmsr.bundle.manifest import GraphSpec, TensorSpec
from mmsr.bundle.repository import Repository

SIDE = 4  # pixels
TOKENS = 50
LONGEST = 8
TYPES = {"uint8": TensorProto.UINT8, "int64": TensorProto.INT64, "float32": TensorProto.FLOAT}

IMAGE = GraphSpec(
    file="image_encoder.onnx",
    inputs=(TensorSpec(name="pixels", dtype="uint8", shape=("B", SIDE, SIDE, 3)),),
    outputs=(TensorSpec(name="feature", dtype="float32", shape=("B", 3)),),
)
TEXT = GraphSpec(
    file="text_encoder.onnx",
    inputs=(
        TensorSpec(name="input_ids", dtype="int64", shape=("B", "T")),
        TensorSpec(name="attention_mask", dtype="int64", shape=("B", "T")),
    ),
    outputs=(TensorSpec(name="feature", dtype="float32", shape=("B", 2)),),
)


def image_nodes() -> list[Any]:
    node = helper.make_node
    return [
        node("Cast", ["pixels"], ["real"], to=TensorProto.FLOAT),
        node("ReduceMean", ["real", "axes"], ["feature"], keepdims=0),
    ]


def text_nodes() -> list[Any]:
    node = helper.make_node
    return [
        # As a real one does, it fails where an id is beyond its table.
        node("Gather", ["table", "input_ids"], ["embedded"], axis=0),
        node("Mul", ["embedded", "attention_mask"], ["masked"]),
        node("ReduceSum", ["masked", "axes"], ["sum"], keepdims=1),
        node("ReduceSum", ["attention_mask", "axes"], ["count"], keepdims=1),
        node("Concat", ["sum", "count"], ["both"], axis=1),
        node("Cast", ["both"], ["feature"], to=TensorProto.FLOAT),
    ]


def save_graph(folder: Path, spec: GraphSpec, nodes: list[Any], constants: dict[str, Any]) -> None:
    def values(tensors: tuple[TensorSpec, ...]) -> list[Any]:
        return [helper.make_tensor_value_info(t.name, TYPES[t.dtype], t.shape) for t in tensors]

    initialisers = [onnx.numpy_helper.from_array(a, name) for name, a in constants.items()]
    graph = helper.make_graph(
        nodes, "encoder", values(spec.inputs), values(spec.outputs), initialisers
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / spec.file)


def tokenizer() -> dict[str, Any]:
    """Return a tokenizer file as the library writes it, of TOKENS tokens."""
    vocabulary = {f"word-{n}": n for n in range(TOKENS - 1)}
    return {
        "added_tokens": [{"id": TOKENS - 1, "content": "[PAD]"}],
        "model": {"type": "WordPiece", "vocab": vocabulary},
    }


def publish_with_encoders(root: Path, sizes: Sizes | None = None) -> Shop:
    """Publish a bundle with both encoders as `stable` in a new repository at `root`."""
    sizes = sizes or Sizes()
    twin = make_twin(sizes)
    repository = Repository(root)
    repository.create()
    with repository.stage() as folder:
        write_files(folder, twin, sizes)
        save_graph(folder, IMAGE, image_nodes(), {"axes": np.array([1, 2])})
        constants = {"axes": np.array([1]), "table": np.arange(TOKENS)}
        save_graph(folder, TEXT, text_nodes(), constants)
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
        plain = manifest_of(sizes)
        graphs = {**plain.graphs, "image_encoder": IMAGE, "text_encoder": TEXT}
        features = {"text": {"max_tokens": LONGEST}}
        seal(folder, replace(plain, graphs=graphs, features=features))
        bundle_id = repository.publish(folder)
    repository.promote(bundle_id, "stable")
    return Shop(root=root, folder=repository.path(bundle_id), sizes=sizes, twin=twin)
