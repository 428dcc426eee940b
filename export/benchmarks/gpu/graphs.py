"""Section "graphs": what the others run, converted once: fp32, and half with its types inside.

In which forms is `mmsr-export`'s own decision, for each size of catalogue.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu.setting import Findings, SectionSkippedError, Setting
from benchmarks.gpu.shop import config_of, forms, make_model, room_for, write_reference
from mmsr.bundle.manifest import Manifest, TableSizes
from mmsr.export.forms import Forms

SEEDS = (0, 1)  # 1: the weights of "the next night", for the refit


@dataclass(frozen=True, kw_only=True)
class SequenceFile:
    """A converted sequence graph, and what must be known of it to ask it."""

    path: Path
    form: str
    half: bool  # its tables too
    folded_by: int | None  # seed of the weights that are in the rows as well; None: plain rows


def sequence_file(setting: Setting, items: int, seed: int, half: bool) -> SequenceFile:
    """Return the graph that is shipped for so many items; skips if it was not converted."""
    decided = forms(setting, items)
    return SequenceFile(
        path=_there(_sequence_path(setting, decided, seed, half)),
        form=str(decided),
        half=half,
        folded_by=seed if decided.rows.folded else None,
    )


def _sequence_path(setting: Setting, decided: Forms, seed: int, half: bool) -> Path:
    rows = "folded" if decided.rows.folded else "plain"
    scoring = "chunked" if decided.scoring.chunked else "flat"
    return setting.work / f"sequence-{rows}-{scoring}-{seed}{'-fp16' if half else ''}.onnx"


def encoder_path(setting: Setting, name: str, half: bool) -> Path:
    """Return where an encoder lies; skips if it was not converted."""
    return _there(setting.work / f"{name}{'-fp16' if half else ''}.onnx")


def manifest_of(setting: Setting, items: int) -> Manifest:
    """Return as much of a bundle's manifest as the builder reads."""
    decided = forms(setting, items)
    sizes = TableSizes(
        items=items,
        capacity=decided.capacity,
        input_width=decided.rows.columns,
        output_width=setting.width,
    )
    return Manifest(
        max_length=config_of(setting).max_length,
        exclude_seen=True,
        tables=sizes,
        graphs={},
        model={},
        features={},
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
    for items in setting.items:
        decided = forms(setting, items)
        findings.cell(
            {
                "items": items,
                "form": str(decided),
                "rows of the tables": decided.capacity,
                "columns": decided.rows.columns,
                "why": f"{decided.rows.why}; {decided.scoring.why}",
            }
        )
    for seed in seeds:
        # What is refitted is the smallest catalogue's.
        for items in setting.items if seed == seeds[0] else setting.items[:1]:
            _write_sequence(setting, findings, items, seed)


def _write_sequence(setting: Setting, findings: Findings, items: int, seed: int) -> None:
    """Convert the graph that is shipped for so many items, unless another size has the same."""
    from mmsr.export.convert import convert_sequence
    from mmsr.export.precision import SEQUENCE_HALF_INPUTS, write_half

    decided = forms(setting, items)
    path = _sequence_path(setting, decided, seed, False)
    if path.is_file():
        return
    began = time.perf_counter()
    model = make_model(setting, seed)
    convert_sequence(model, path, folded=decided.rows.folded, chunked=decided.scoring.chunked)
    half = _sequence_path(setting, decided, seed, True)
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
