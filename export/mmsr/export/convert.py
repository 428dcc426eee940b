"""Every graph of a bundle, converted from a trained run."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mmsr.bundle.manifest import GraphSpec
from mmsr.export.folding import RowLayout, plain_columns
from mmsr.export.graphs import ItemGraph, StateGraph, item_input_names
from mmsr.export.int8_scoring import STATES
from mmsr.export.onnx_file import Conversion, Port, convert, describe
from mmsr.export.scoring_tail import append_scoring
from mmsr.training.model import SequentialRecommender

if TYPE_CHECKING:  # they import torchvision and transformers
    from mmsr.training.features.image_encoder import ImageEncoder
    from mmsr.training.features.text_encoder import TextEncoder


def convert_sequence(
    model: SequentialRecommender, path: Path, *, folded: bool, chunked: bool = False
) -> GraphSpec:
    """Write sequence.onnx, which reads rows as `folding` makes them or plain ones."""
    return sequence_conversion(model, folded=folded, chunked=chunked).write(path)


def sequence_conversion(
    model: SequentialRecommender, *, folded: bool, chunked: bool = False
) -> Conversion:
    """Return what sequence.onnx is made of; `chunked` is the form of its scoring."""
    config = model.config
    columns = RowLayout(config).columns if folded else plain_columns(config)
    ones = torch.ones(2, dtype=torch.int64)
    ports = [
        Port(
            name="history",
            example=torch.ones(2, 3, dtype=torch.int64),
            dynamic={0: "B", 1: "L"},
            most={1: config.max_length},
        ),
        Port(name="length", example=ones, dynamic={0: "B"}),
        # Named apart from the rows of `item_outputs`, of which fewer may be bound.
        Port(name="item_inputs", example=torch.zeros(11, columns), dynamic={0: "R"}),
    ]
    return Conversion(
        module=StateGraph(model, folded),
        ports=ports,
        outputs=[STATES],
        finish=partial(append_scoring, chunked=chunked),
    )


def convert_item(model: SequentialRecommender, path: Path, *, folded: bool) -> GraphSpec:
    """Write item.onnx, which makes folded rows or plain ones."""
    return item_conversion(model, folded=folded).write(path)


def item_conversion(model: SequentialRecommender, *, folded: bool) -> Conversion:
    """Return what item.onnx is made of."""
    encoder = model.item_encoder
    examples: list[Port] = []
    for name in item_input_names(model.config):
        if name == "id_row":
            example = torch.ones(3, dtype=torch.int64)
        elif name == "id_table":
            example = torch.zeros(5, model.config.width)
        elif name.endswith("_present"):
            example = torch.ones(3, dtype=torch.bool)
        else:
            projection = encoder.modalities[name].project
            example = torch.zeros(3, projection.in_features)  # type: ignore[arg-type,union-attr]
        first = "R" if name == "id_table" else "n"
        examples.append(Port(name=name, example=example, dynamic={0: first}))
    return Conversion(
        module=ItemGraph(model, folded), ports=examples, outputs=["item_inputs", "item_outputs"]
    )


def convert_image_encoder(encoder: "ImageEncoder", size: int, path: Path) -> GraphSpec:
    """Write image_encoder.onnx: uint8 RGB pixels [B, size, size, 3] -> feature [B, F]."""
    pixels = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    convert(encoder, [Port(name="pixels", example=pixels, dynamic={0: "B"})], ["feature"], path)
    return describe(path)


def convert_text_encoder(encoder: "TextEncoder", max_tokens: int, path: Path) -> GraphSpec:
    """Write text_encoder.onnx: token ids and mask int64 [B, T] -> feature [B, F]."""
    ids = torch.ones(2, min(7, max_tokens), dtype=torch.int64)
    most = {1: max_tokens}
    ports = [
        Port(name="input_ids", example=ids, dynamic={0: "B", 1: "T"}, most=most),
        Port(name="attention_mask", example=ids, dynamic={0: "B", 1: "T"}, most=most),
    ]
    convert(encoder, ports, ["feature"], path)
    return describe(path)
