"""Section "graphs": what the others run, converted once: fp32, and half with its types inside."""

import time
from pathlib import Path

import torch

from benchmarks.gpu.setting import Findings, SectionSkippedError, Setting
from benchmarks.gpu.shop import make_model, room_for, write_reference
from mmsr.bundle.manifest import Manifest, TableSizes

SEEDS = (0, 1)  # 1: the weights of "the next night", for the refit
FIVE_SOURCES = 4  # image, text, category beside the id in the input table


def sequence_path(setting: Setting, seed: int, half: bool) -> Path:
    """Return where the sequence graph lies; skips if it was not converted."""
    return _there(setting.work / f"sequence-{seed}{'-fp16' if half else ''}.onnx")


def encoder_path(setting: Setting, name: str, half: bool) -> Path:
    """Return where an encoder lies; skips if it was not converted."""
    return _there(setting.work / f"{name}{'-fp16' if half else ''}.onnx")


def manifest_of(setting: Setting, items: int) -> Manifest:
    """Return as much of a manifest as the builder reads."""
    width = setting.width
    sizes = TableSizes(
        items=items, capacity=items + 1, input_width=FIVE_SOURCES * width, output_width=width
    )
    return Manifest(
        max_length=50, exclude_seen=True, tables=sizes, graphs={}, model={}, features={}
    )


def write_graphs(setting: Setting, findings: Findings) -> None:
    """Convert the sequence graph with two sets of weights, and keep PyTorch's answers."""
    seeds = SEEDS if setting.cuda else SEEDS[:1]  # no refit without a GPU
    for items in setting.items:
        problem = room_for(setting, items, 8, 4)
        if problem:
            findings.note(f"no reference for {items:,} items: {problem}")
            continue
        for seed in seeds if items == setting.items[0] else seeds[:1]:
            write_reference(setting, items, seed)
    from mmsr.export.convert import convert_sequence
    from mmsr.export.precision import SEQUENCE_HALF_INPUTS, write_half

    for seed in seeds:
        began = time.perf_counter()
        path = setting.work / f"sequence-{seed}.onnx"
        convert_sequence(make_model(setting, seed), path, folded=False)
        half = path.with_name(f"{path.stem}-fp16.onnx")
        write_half(path, half, SEQUENCE_HALF_INPUTS)
        findings.cell(
            {
                "graph": path.name,
                "seconds": time.perf_counter() - began,
                "fp32_bytes": path.stat().st_size,
                "fp16_bytes": half.stat().st_size,
            }
        )


def write_encoders(setting: Setting, findings: Findings) -> None:
    """Convert both encoders; untrained weights are as fast as trained ones."""
    from mmsr.export.convert import convert_image_encoder, convert_text_encoder
    from mmsr.export.precision import write_half
    from mmsr.training.features.config import FeaturesConfig
    from mmsr.training.features.image_encoder import load_image_encoder

    name, size = ("squeezenet1_1", 32) if setting.quick else ("vgg16", 224)
    config = FeaturesConfig(image_encoder=name, image_size=size, random_weights=True)
    image, _ = load_image_encoder(config)
    path = setting.work / "image.onnx"
    convert_image_encoder(image, size, path)
    write_half(path, path.with_name("image-fp16.onnx"))
    findings.cell({"graph": "image.onnx", "encoder": f"{name}, {size} pixels"})
    from mmsr.training.features.text_encoder import TextEncoder

    path = setting.work / "text.onnx"
    convert_text_encoder(TextEncoder(_bert(setting.quick), "mean"), 128, path)
    write_half(path, path.with_name("text-fp16.onnx"))
    findings.cell({"graph": "text.onnx", "encoder": "BERT of MiniLM-L6's size, mean of tokens"})


def _bert(quick: bool) -> torch.nn.Module:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    layers, width, heads = (1, 32, 2) if quick else (6, 384, 12)
    config = BertConfig(
        vocab_size=100 if quick else 30522,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    body: torch.nn.Module = BertModel(config, add_pooling_layer=False)
    return body.train(False)


def _there(path: Path) -> Path:
    if not path.is_file():
        raise SectionSkippedError(f"{path.name} was not converted (see the section on graphs)")
    return path
