"""A tiny bundle with everything that a live catalogue needs: item.onnx, encoders, a tokenizer.

The graphs are real ones, one line each: an item's rows are its id vector plus a matrix times each
feature; an image's feature is the mean colour, a text's the sum of its words' vectors.
"""

# n items, D output width, F features of a modality, B images or texts, T tokens, S side in pixels

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper
from PIL import Image
from support.tiny_bundle import Shop, Sizes, make_twin, manifest_of, seal, write_files
from tokenizers import Tokenizer, models, pre_tokenizers

from mmsr.bundle.manifest import GraphSpec, Manifest, TensorSpec
from mmsr.bundle.repository import Repository

Floats = npt.NDArray[np.float32]
SIDE = 8  # S
IMAGE_WIDTH, TEXT_WIDTH = 3, 5
CATEGORIES = ["cups", "lamps", "brand: Acme"]
WORDS = ["[PAD]", "[UNK]", "red", "blue", "cup", "lamp", "acme"]
TYPES = {
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
}
Ports = dict[str, tuple[str, tuple[int | str, ...]]]
NEWEST_S = 1_000_000_000.0  # of the bundle's data: 2001


def weights(width: int, encoder_seed: int = 0) -> dict[str, Floats]:
    """Return the numbers of the item graph and of the text encoder."""
    random = np.random.default_rng(7)
    matrices = {
        "image": random.normal(size=(IMAGE_WIDTH, width)),
        "text": random.normal(size=(TEXT_WIDTH, width)),
        "category": random.normal(size=(len(CATEGORIES), width)),
        "words": np.random.default_rng(encoder_seed).normal(size=(len(WORDS), TEXT_WIDTH)),
    }
    return {name: values.astype(np.float32) for name, values in matrices.items()}


def item_graph(width: int, extra: int) -> tuple[bytes, Ports, Ports]:
    """Return item.onnx and its inputs and outputs."""
    inputs: Ports = {"id_row": ("int64", ("n",)), "id_table": ("float32", ("R", width))}
    nodes = [helper.make_node("Gather", ["id_table", "id_row"], ["sum_id"])]
    constants: dict[str, npt.NDArray[Any]] = {"one": np.array([1], np.int64)}
    last = "sum_id"
    for modality, features in (
        ("image", IMAGE_WIDTH),
        ("text", TEXT_WIDTH),
        ("category", len(CATEGORIES)),
    ):
        inputs[modality] = ("float32", ("n", features))
        inputs[f"{modality}_present"] = ("bool", ("n",))
        constants[f"{modality}_matrix"] = weights(width)[modality]
        nodes += [
            helper.make_node("MatMul", [modality, f"{modality}_matrix"], [f"{modality}_side"]),
            helper.make_node("Cast", [f"{modality}_present"], [f"{modality}_1"], to=1),
            helper.make_node("Unsqueeze", [f"{modality}_1", "one"], [f"{modality}_n1"]),
            helper.make_node("Mul", [f"{modality}_side", f"{modality}_n1"], [f"{modality}_known"]),
            helper.make_node("Add", [last, f"{modality}_known"], [f"sum_{modality}"]),
        ]
        last = f"sum_{modality}"
    constants |= {"first": np.array([0], np.int64), "extra": np.array([extra], np.int64)}
    nodes += [
        helper.make_node("Slice", [last, "first", "extra", "one"], ["tail"]),
        helper.make_node("Concat", [last, "tail"], ["item_inputs"], axis=1),
        helper.make_node("Identity", [last], ["item_outputs"]),
    ]
    outputs: Ports = {
        "item_inputs": ("float32", ("n", width + extra)),
        "item_outputs": ("float32", ("n", width)),
    }
    return model_of(nodes, inputs, outputs, constants), inputs, outputs


def image_graph() -> tuple[bytes, Ports, Ports]:
    """Return image_encoder.onnx: the mean of each channel, 0 to 255."""
    inputs: Ports = {"pixels": ("uint8", ("B", SIDE, SIDE, 3))}
    outputs: Ports = {"feature": ("float32", ("B", IMAGE_WIDTH))}
    axes = {"axes": np.array([1, 2], np.int64)}
    nodes = [
        helper.make_node("Cast", ["pixels"], ["values"], to=1),
        helper.make_node("ReduceMean", ["values", "axes"], ["feature"], keepdims=0),
    ]
    return model_of(nodes, inputs, outputs, axes), inputs, outputs


def text_graph(encoder_seed: int) -> tuple[bytes, Ports, Ports]:
    """Return text_encoder.onnx: the sum of the words' vectors."""
    inputs: Ports = {"input_ids": ("int64", ("B", "T")), "attention_mask": ("int64", ("B", "T"))}
    outputs: Ports = {"feature": ("float32", ("B", TEXT_WIDTH))}
    words = weights(1, encoder_seed)["words"]
    constants: dict[str, npt.NDArray[Any]] = {
        "words": words,
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=1),
        helper.make_node("Unsqueeze", ["mask", "two"], ["mask_BT1"]),
        helper.make_node("Mul", ["vectors", "mask_BT1"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "one"], ["feature"], keepdims=0),
    ]
    return model_of(nodes, inputs, outputs, constants), inputs, outputs


def model_of(
    nodes: Sequence[Any], inputs: Ports, outputs: Ports, constants: Mapping[str, npt.NDArray[Any]]
) -> bytes:
    """Return the serialised graph."""

    def values(ports: Ports) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, TYPES[dtype], shape)
            for name, (dtype, shape) in ports.items()
        ]

    tensors = [
        helper.make_tensor(name, TYPES[str(array.dtype)], array.shape, array.flatten())
        for name, array in constants.items()
    ]
    graph = helper.make_graph(nodes, "tiny", values(inputs), values(outputs), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


Complete = Callable[[Path, Manifest], Manifest]


def untouched(folder: Path, manifest: Manifest) -> Manifest:
    """Add nothing to a bundle."""
    return manifest


def spec_of(file: str, inputs: Ports, outputs: Ports) -> GraphSpec:
    """Return a graph's entry in the manifest."""

    def tensors(ports: Ports) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name=name, dtype=dtype, shape=shape)
            for name, (dtype, shape) in ports.items()
        )

    return GraphSpec(file=file, inputs=tensors(inputs), outputs=tensors(outputs))


def write_live_files(folder: Path, sizes: Sizes, encoder_seed: int = 0) -> dict[str, GraphSpec]:
    """Write the graphs, the ids and the tokenizer; return the graphs' entries."""
    made = {
        "item": item_graph(sizes.width, sizes.extra_width),
        "image_encoder": image_graph(),
        "text_encoder": text_graph(encoder_seed),
    }
    specs = {}
    for name, (graph, inputs, outputs) in made.items():
        (folder / f"{name}.onnx").write_bytes(graph)
        specs[name] = spec_of(f"{name}.onnx", inputs, outputs)
    np.save(folder / "tables" / "ids.npy", ids(sizes))
    tokenizer = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return specs


def ids(sizes: Sizes) -> Floats:
    """Return the trained id vectors, row 0 that of an item without one."""
    values = np.random.default_rng(3).normal(size=(sizes.items + 1, sizes.width))
    return values.astype(np.float32)


def live_manifest(sizes: Sizes, graphs: Mapping[str, GraphSpec], encoder_seed: int) -> Manifest:
    """Return the manifest, yet without files."""
    plain = manifest_of(sizes)
    return replace(
        plain,
        graphs={**plain.graphs, **graphs},
        features={
            "image": {
                "encoder": "mean colour",
                "weights_source": "random:0",
                "weights_sha256": "none",
                "preprocess": {"size": SIDE, "resample": "bilinear", "max_pixels": 50_000_000},
            },
            "text": {
                "encoder": "sum of words",
                "source": "folder:here",
                "weights_sha256": str(encoder_seed),
                "text_fields": ["title", "brand", "categories", "description"],
            },
            "categories": CATEGORIES,
        },
        provenance={"newest": NEWEST_S, "exported": "2026-01-01T00:00:00+00:00"},
    )


def publish_live(
    root: Path,
    sizes: Sizes | None = None,
    *,
    seed: int = 0,
    encoder_seed: int = 0,
    complete: Complete = untouched,
    **said: Any,
) -> Shop:
    """Publish a bundle as `stable` in the repository at `root`; `said` goes into its provenance.

    `complete` may write more files and say so in the manifest.
    """
    sizes = sizes or Sizes()
    twin = make_twin(sizes, seed)
    repository = Repository(root)
    repository.create()
    with repository.stage() as folder:
        write_files(folder, twin, sizes)
        graphs = write_live_files(folder, sizes, encoder_seed)
        manifest = complete(folder, live_manifest(sizes, graphs, encoder_seed))
        seal(folder, replace(manifest, provenance=manifest.provenance | said))
        bundle_id = repository.publish(folder)
    repository.promote(bundle_id, "stable")
    return Shop(root=root, folder=repository.path(bundle_id), sizes=sizes, twin=twin)


def expected_output(
    shop: Shop,
    *,
    trained: int = 0,
    image: Sequence[float] = (),
    text: Sequence[float] = (),
    categories: Sequence[str] = (),
) -> Floats:
    """Return the row of `item_outputs` that an item with these features gets."""
    matrices = weights(shop.sizes.width)
    row: Floats = ids(shop.sizes)[trained].copy()
    if image:
        row += np.array(image, np.float32) @ matrices["image"]
    if text:
        row += np.array(text, np.float32) @ matrices["text"]
    for name in categories:
        row += matrices["category"][CATEGORIES.index(name)]
    return row


def picture(colour: tuple[int, int, int], kind: str = "PNG", side: int = 20) -> bytes:
    """Return an image file of one colour."""
    file = BytesIO()
    Image.new("RGB", (side, side), colour).save(file, kind)
    return file.getvalue()
