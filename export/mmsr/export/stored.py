"""Compares everything that a staged bundle stores with the checkpoint: every row, id and weight.

Probes look at a thousand histories; a wrong row that none of them meets is found here. Read in
blocks, so that the memory does not grow with the catalogue.
"""

# N items, C table rows, W input columns, D output columns

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mmsr.bundle.catalogue import Catalogue
from mmsr.bundle.errors import BundleError, one_line
from mmsr.bundle.files import sha256_file
from mmsr.bundle.manifest import Manifest
from mmsr.bundle.tables import UNREADABLE, writable
from mmsr.engine.opened import CONTENT, ITEM_INPUTS, ITEM_OUTPUTS
from mmsr.engine.runners.base import AnyArray
from mmsr.export.content_vectors import content_vectors, has_content_vectors
from mmsr.export.encoder_weights import KnownWeights, WeightsCheck, check_encoder_weights
from mmsr.export.folding import is_folded
from mmsr.export.initializers import digest_of, initializer_hashes
from mmsr.export.manifest_fields import wrong_fields
from mmsr.export.parity import (
    ITEM_TOLERANCE,
    Difference,
    as_stored,
    difference,
    item_blocks,
    torch_rows,
)
from mmsr.export.tables import IDS, availability_of
from mmsr.export.trained_graphs import trained_numbers, wrong_weights
from mmsr.export.variants import count_wrong_codes
from mmsr.training.run import TrainedRun
from mmsr.training.run_names import NAMES, load_names

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class StoredReport:
    """What was compared of the files, and what differs."""

    table_rows: int = 0
    tables: dict[str, Difference] = field(default_factory=dict)  # input and output rows, id rows
    spare_rows: int = 0  # that are not zero
    wrong_codes: int = 0  # rows whose 8-bit codes are not those of their output vector
    items: int = 0
    wrong_items: int = 0  # lines of the catalogue that are not the checkpoint's item
    initializers: dict[str, int] = field(default_factory=dict)  # how many of each graph
    wrong_graphs: list[str] = field(default_factory=list)  # whose numbers are not a conversion's
    trained: dict[str, int | None] = field(default_factory=dict)  # of them the checkpoint's
    wrong_weights: dict[str, str] = field(default_factory=dict)  # file -> not the checkpoint's
    encoder_weights: dict[str, WeightsCheck] = field(default_factory=dict)  # by graph
    wrong_files: list[str] = field(default_factory=list)  # whose hash is not the one trained with
    wrong_fields: list[str] = field(default_factory=list)  # of the manifest, that serving obeys


def check_stored(
    run: TrainedRun,
    folder: Path,
    manifest: Manifest,
    catalogue: Catalogue,
    known: KnownWeights,
) -> StoredReport:
    """Compare tables, catalogue, graphs and tokenizer with the run, encoders with their weights.

    The manifest's provenance says what each graph's numbers were when it was converted. `known`
    are comparisons with encoders' weights that need not be made again.
    """
    tables, spare = _compare_tables(run, folder, manifest)
    hashes = {g: initializer_hashes(folder / spec.file) for g, spec in manifest.graphs.items()}
    digests = {graph: digest_of(found) for graph, found in hashes.items()}
    recorded: Mapping[str, str] = manifest.provenance.get("initializers", {})
    return StoredReport(
        table_rows=manifest.tables.items + 1,
        tables=tables,
        spare_rows=spare,
        wrong_codes=count_wrong_codes(folder, manifest),
        items=len(catalogue),
        wrong_items=_wrong_items(run, catalogue),
        initializers={graph: len(found) for graph, found in hashes.items()},
        wrong_graphs=[
            manifest.graphs[graph].file
            for graph, digest in digests.items()
            if digest != recorded.get(graph)
        ],
        trained=trained_numbers(manifest),
        wrong_weights=wrong_weights(run.model, folder, manifest),
        encoder_weights=check_encoder_weights(run, folder, manifest, digests, known),
        wrong_files=_wrong_files(run, folder),
        wrong_fields=wrong_fields(run, manifest),
    )


def _compare_tables(
    run: TrainedRun, folder: Path, manifest: Manifest
) -> tuple[dict[str, Difference], int]:
    items, folded = manifest.tables.items, is_folded(manifest)
    if items != run.info.items:
        raise BundleError(f"{folder} holds {items} items, the checkpoint {run.info.items}")
    names = [ITEM_INPUTS, ITEM_OUTPUTS, IDS]
    if has_content_vectors(run):
        names.append(CONTENT)
    stored = {name: open_array(folder / name) for name in names}
    worst = dict.fromkeys(stored, Difference())
    ids = run.model.item_encoder.ids.weight.detach()
    for rows_n in item_blocks(items, begin=0):
        rows = torch_rows(run, rows_n, run.content.rows(rows_n))
        tensors = [*as_stored(run, rows, folded=folded).values(), ids[rows_n]]
        if CONTENT in names:
            tensors.append(content_vectors(run, rows_n))
        wanted = dict(zip(names, tensors, strict=True))
        block = slice(int(rows_n[0]), int(rows_n[-1]) + 1)
        for name, tensor in wanted.items():
            found = difference(stored[name][block], tensor.cpu().numpy())
            worst[name] = worst[name].worse(found)
    spare = sum(
        int(np.count_nonzero(stored[name][items + 1 :].any(axis=1)))
        for name in names
        if name != IDS
    )
    return worst, spare


def open_array(path: Path) -> AnyArray:
    """Map a table into memory; writing to it would change nothing on disk."""
    try:
        return writable(path)
    except UNREADABLE as error:
        raise BundleError(
            f"{path} is unreadable ({one_line(error)}); nothing was published"
        ) from None


def _wrong_items(run: TrainedRun, catalogue: Catalogue) -> int:
    """Count the lines whose item, title, categories, popularity or availability are not the run's.

    Ids are those that the checkpoint was trained with, where the run has kept them.
    """
    table = run.dataset.item_table(["item_id", "title", "categories"])
    folder = run.checkpoint.parents[1]
    if (folder / NAMES).is_file():
        ids = pa.chunked_array([pa.array(load_names(folder, run.info).items, pa.string())])
    else:
        ids = table["item_id"]
    items = run.info.items
    counts_N = np.bincount(np.asarray(run.dataset.items_T), minlength=items + 1)[1:]
    if not len(ids) == len(catalogue) == len(table) == items:
        return max(len(ids), len(catalogue), len(table))
    wrong_N = catalogue.popularity != counts_N
    wrong_N |= catalogue.available != availability_of(run)
    wrong_N |= _unequal(ids, catalogue.item_ids)
    wrong_N |= _unequal(table["title"], catalogue.titles)
    listed = table["categories"].to_pylist()
    pairs = zip(listed, catalogue.categories, strict=True)
    wrong_N |= np.fromiter(((a or []) != b for a, b in pairs), np.bool_, items)
    return int(np.count_nonzero(wrong_N))


def _unequal(wanted: pa.ChunkedArray, found: list[str] | list[str | None]) -> AnyArray:
    filled = pc.fill_null(wanted, "\0").to_numpy(zero_copy_only=False)
    return np.fromiter(
        (a != ("\0" if b is None else b) for a, b in zip(filled, found, strict=True)),
        np.bool_,
        len(found),
    )


def _wrong_files(run: TrainedRun, folder: Path) -> list[str]:
    """Return the tokenizer's name if it is not the one that the features were made with."""
    wanted = (run.info.features.get("text") or {}).get("tokenizer_sha256")
    if wanted is None:
        return []
    path = folder / TOKENIZER
    return [] if path.is_file() and sha256_file(path) == wanted else [TOKENIZER]


def stored_tensors(folder: Path, items: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tables' rows 0..N as tensors that read the files in place: [N+1, W], [N+1, D]."""
    inputs_NW, outputs_ND = (
        torch.from_numpy(open_array(folder / name)[: items + 1])
        for name in (ITEM_INPUTS, ITEM_OUTPUTS)
    )
    return inputs_NW, outputs_ND


def problems_of_files(stored: StoredReport) -> Iterator[str]:
    """Say what a bundle's files hold that the checkpoint does not."""
    for name, found in stored.tables.items():
        if not found.max_error <= ITEM_TOLERANCE:
            yield (
                f"{name} differs from the checkpoint by {found.max_error:.3g}, at most "
                f"{ITEM_TOLERANCE:g} allowed"
            )
    if stored.spare_rows:
        yield f"{stored.spare_rows} spare rows of the tables are not zero"
    if stored.wrong_codes:
        yield f"the 8-bit codes of {stored.wrong_codes} rows are not those of the fp32 table"
    if stored.wrong_items:
        yield (
            f"catalogue.parquet: {stored.wrong_items} of {stored.items} rows are not the items "
            "that the checkpoint was trained with, each available"
        )
    yield from _problems_of_numbers(stored)
    for name in stored.wrong_files:
        yield f"{name} is not the one that the model was trained with"
    for name in stored.wrong_fields:
        yield f"manifest.json: {name} is not what the model was trained with"


def _problems_of_numbers(stored: StoredReport) -> Iterator[str]:
    for name in stored.wrong_graphs:
        yield f"{name} does not hold the numbers that it was written with"
    for name, what in stored.wrong_weights.items():
        yield f"{name}: {what} is not what the checkpoint gives"
    for graph, check in stored.encoder_weights.items():
        if check.wrong is not None:
            yield f"{graph}.onnx: {check.wrong} is not what the encoder's weights give"
