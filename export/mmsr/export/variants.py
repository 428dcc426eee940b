"""Writes a staged fp32 bundle's sequence graph in another precision, in place.

The tables of the bundle stay fp32: whoever binds them converts them (fp16), or reads the codes
that are written beside them (int8). Decides nothing and proves nothing.
"""

# C table rows, D width

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from mmsr.bundle.files import sha256_file
from mmsr.bundle.manifest import FileEntry, Manifest, load_manifest
from mmsr.bundle.tables import save_table
from mmsr.engine.opened import CODE_FILES, ITEM_INPUTS, ITEM_OUTPUTS
from mmsr.engine.precision import precision_of
from mmsr.engine.quantise import CODES, SCALES, quantise_rows
from mmsr.export.initializers import Hashes, digest_of, initializer_hashes
from mmsr.export.int8_scoring import write_int8_scoring
from mmsr.export.onnx_file import describe
from mmsr.export.precision import (
    HALF_COPY,
    LARGEST,
    SEQUENCE_HALF_INPUTS,
    PrecisionError,
    write_bfloat16,
    write_half,
)
from mmsr.export.template import Weights, structure_of

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Asked = Literal["fp32", "fp16", "bf16", "int8", "auto"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
ROWS_PER_BLOCK = 65_536


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A sequence graph as it was converted, in fp32, outside of any bundle."""

    path: Path
    weights: Weights | None  # which of its numbers are the model's; None: that cannot be told

    @classmethod
    def copied_from(cls, folder: Path, to: Path) -> Self:
        """Copy the sequence graph of an fp32 bundle to the file `to`."""
        manifest = load_manifest(folder)
        shutil.copyfile(folder / manifest.graphs["sequence"].file, to)
        recorded = manifest.provenance.get("weights", {}).get("sequence")
        return cls(path=to, weights=None if recorded is None else Weights.from_json(recorded))


def check_asked(asked: str) -> None:
    """Raise `PrecisionError` for a precision that there is not."""
    if asked not in get_args(Asked):
        raise PrecisionError(f"precision {asked!r}; expected one of {', '.join(get_args(Asked))}")


def write_variant(precision: str, source: Path, target: Path, tables: Path) -> None:
    """Write the fp32 sequence graph `source` to `target`; the tables lie below `tables`.

    `PrecisionError` if the graph or the tables cannot be had in that precision.
    """
    check_asked(precision)
    if precision == "fp16":
        _require_fits(tables)
        write_half(source, target, SEQUENCE_HALF_INPUTS)
    elif precision == "bf16":
        write_bfloat16(source, target)
    elif precision == "int8":
        write_int8_scoring(source, target)
    else:
        shutil.copyfile(source, target)


def _require_fits(folder: Path) -> None:
    for name in (ITEM_INPUTS, ITEM_OUTPUTS):
        table_CD = np.load(folder / name, mmap_mode="r", allow_pickle=False)
        for begin in range(0, len(table_CD), ROWS_PER_BLOCK):
            largest = float(np.abs(table_CD[begin : begin + ROWS_PER_BLOCK]).max())
            if not largest <= LARGEST:
                raise PrecisionError(
                    f"{name} holds {largest:g}, fp16 at most {LARGEST:g}; export with "
                    "--precision bf16 or fp32"
                )


def install(folder: Path, precision: str, converted: Converted, record: dict[str, Any]) -> None:
    """Make the bundle in `folder` one of that precision; `record` goes into its provenance."""
    manifest = load_manifest(folder)
    sequence = folder / manifest.graphs["sequence"].file
    sequence.unlink()  # another bundle may share the file by a link
    write_variant(precision, converted.path, sequence, folder)
    changed = [manifest.graphs["sequence"].file, *_write_codes(folder, precision)]
    kept = {n: e for n, e in manifest.files.items() if n not in CODE_FILES.values()}
    files = kept | {name: _entry(folder / name) for name in changed}
    replace(
        manifest,
        graphs=manifest.graphs | {"sequence": describe(sequence)},
        files=dict(sorted(files.items())),
        provenance=manifest.provenance
        | _numbers_of(sequence, converted, manifest.provenance)
        | {"precision": record},
    ).save(folder)


def _numbers_of(path: Path, converted: Converted, before: dict[str, Any]) -> dict[str, Any]:
    """Return what a manifest says of the numbers in the sequence graph at `path`."""
    hashes = initializer_hashes(path)
    said = {"initializers": before.get("initializers", {}) | {"sequence": digest_of(hashes)}}
    if converted.weights is None:
        return said
    weights = _weights_in(path, hashes, converted.weights)
    return said | {"weights": before.get("weights", {}) | {"sequence": weights.to_json()}}


def _weights_in(path: Path, held: Hashes, converted: Weights) -> Weights:
    """Return which numbers of a variant are the model's: by name, or by that of what was cast."""
    origins = {name: name.removesuffix(HALF_COPY) for name in held}
    known = converted.sources
    sources = {name: known[origin] for name, origin in origins.items() if origin in known}
    return Weights(structure=structure_of(path, sources), sources=sources)


def _write_codes(folder: Path, precision: str) -> list[str]:
    """Write the tables that int8 alone has, or take them away; return their names."""
    for name in CODE_FILES.values():
        (folder / name).unlink(missing_ok=True)
    if precision != "int8":
        return []
    outputs_CD = np.load(folder / ITEM_OUTPUTS, mmap_mode="r", allow_pickle=False)
    codes_DC, scales_C = quantise_rows(outputs_CD)
    save_table(folder / CODE_FILES[CODES], codes_DC)
    save_table(folder / CODE_FILES[SCALES], scales_C)
    return list(CODE_FILES.values())


def _entry(path: Path) -> FileEntry:
    return FileEntry(sha256=sha256_file(path), bytes=path.stat().st_size)


def count_wrong_codes(folder: Path, manifest: Manifest) -> int:
    """Return how many rows' codes or scales are not those of the stored output vectors."""
    if precision_of(manifest) != "int8":
        return 0
    codes_DC, scales_C, outputs_CD = (
        np.load(folder / name, mmap_mode="r", allow_pickle=False)
        for name in (CODE_FILES[CODES], CODE_FILES[SCALES], ITEM_OUTPUTS)
    )
    wrong = 0
    for begin in range(0, len(outputs_CD), ROWS_PER_BLOCK):
        block = slice(begin, begin + ROWS_PER_BLOCK)
        wanted_Dn, scales_n = quantise_rows(outputs_CD[block])
        differs_n = (codes_DC[:, block] != wanted_Dn).any(axis=0) | (scales_C[block] != scales_n)
        wrong += int(np.count_nonzero(differs_n))
    return wrong
