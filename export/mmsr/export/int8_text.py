"""The text encoder in dynamic int8, for CPUs, and what that does to the ranking.

Weights have seven bits: ONNX Runtime's product of uint8 and int8 adds pairs in 16 bits on
processors without VNNI, and clamps. While serving, only the texts of new items go through the
encoder; here those of many old ones do, so that their ranking can be compared.
"""

# n items, F features, E evaluated users

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mmsr.bundle.files import sha256_file
from mmsr.bundle.manifest import FileEntry, Manifest, load_manifest
from mmsr.engine.encoders import text_precision_of
from mmsr.export.encoders import encode_texts, sampled_texts
from mmsr.export.held_out import Comparison, Interactions, compare, torch_gains
from mmsr.export.initializers import digest_of, initializer_hashes
from mmsr.export.onnx_file import describe
from mmsr.export.precision import PrecisionError
from mmsr.export.tables import item_rows
from mmsr.training.items import ItemRows
from mmsr.training.run import TrainedRun

GRAPH = "text_encoder"
INT8 = "int8"
MOST_TEXTS = 1000  # encoded for the comparison: about half a minute of MiniLM on one core


def write_int8_text(source: Path, target: Path) -> None:
    """Write the encoder `source` to `target`, its matrix products in dynamic int8.

    `PrecisionError` if it has none.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it recommends shape inference, which the export has done
    try:
        quantize_dynamic(
            source, target, weight_type=QuantType.QInt8, reduce_range=True, per_channel=True
        )
    finally:
        logger.setLevel(level)
    import onnx

    operators = {node.op_type for node in onnx.load(target).graph.node}
    if not operators & {"MatMulInteger", "DynamicQuantizeMatMul"}:
        raise PrecisionError(f"{source.name}: no product with weights, nothing to write in int8")


def install_int8_text(folder: Path) -> None:
    """Make the text encoder of the staged bundle in `folder` one in int8."""
    manifest = load_manifest(folder)
    if GRAPH not in manifest.graphs:
        raise PrecisionError("the run has no text encoder; export without --text-precision")
    path = folder / manifest.graphs[GRAPH].file
    with tempfile.TemporaryDirectory() as spare:
        made = Path(spare) / path.name
        write_int8_text(path, made)
        path.unlink()  # another bundle may share the file by a link
        path.write_bytes(made.read_bytes())
    entry = FileEntry(sha256=sha256_file(path), bytes=path.stat().st_size)
    provenance = manifest.provenance
    digests = provenance["initializers"] | {GRAPH: digest_of(initializer_hashes(path))}
    # Another origin: an export in fp32 must not take it for its own.
    origin = provenance["made_from"][GRAPH] | {"precision": INT8}
    replace(
        manifest,
        graphs=manifest.graphs | {GRAPH: describe(path)},
        files=manifest.files | {path.name: entry},
        provenance=provenance
        | {
            "initializers": digests,
            "made_from": provenance["made_from"] | {GRAPH: origin},
            "text_precision": INT8,
        },
    ).save(folder)


def text_effect(
    run: TrainedRun, folder: Path, manifest: Manifest, rows: ItemRows, asked: Interactions
) -> Comparison | None:
    """Return NDCG@10 with some items' texts encoded by the bundle against the plain `rows`.

    None where the encoder is fp32: its cosine says it all.
    """
    if text_precision_of(manifest) != INT8:
        return None
    chosen_n = sampled_texts(run, MOST_TEXTS)
    features_NF = run.content.features["text"].clone()
    found_nF = encode_texts(run, folder, manifest.graphs[GRAPH], chosen_n)
    features_NF[torch.from_numpy(chosen_n + 1)] = torch.from_numpy(found_nF).to(features_NF)
    content = replace(run.content, features={**run.content.features, "text": features_NF})
    changed = item_rows(replace(run, content=content))
    gains = [torch_gains(run.model, some, run.split, asked) for some in (changed, rows)]
    return compare(np.asarray(gains[0]), np.asarray(gains[1]))
