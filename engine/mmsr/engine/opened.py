"""Opens a bundle's folder and refuses it unless everything in it is as the manifest says.

Knows files, sizes and types; computes nothing.
"""

# C rows of the item tables, N items (rows 1 to N), W input columns, D output columns

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmsr.bundle.catalogue import CATALOGUE, Catalogue, load_catalogue
from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import GraphSpec, Manifest, TensorSpec, load_manifest, verify_files
from mmsr.bundle.tables import map_table
from mmsr.engine.config import Limits
from mmsr.engine.items import CHUNK, bound_rows
from mmsr.engine.probe_set import PROBE
from mmsr.engine.quantise import CODES, SCALES

ITEM_INPUTS = "tables/item_inputs.npy"
ITEM_OUTPUTS = "tables/item_outputs.npy"
CONTENT = "tables/content.npy"  # output vectors as if nobody had bought the items

# What the engine hands to the sequence graph and expects of it: element type and rank.
SEQUENCE_INPUTS = {
    "history": ("int64", 2),  # [B, L] rows, oldest first, padded on the right with 0
    "length": ("int64", 1),  # [B], at least 1
    "excluded": ("int64", 2),  # [B, E] bound rows never to be returned
    "k": ("int64", 1),  # [1], at most as many as rows are bound
    "item_inputs": ("float32", 2),  # [R, W]
    "item_outputs": ("float32", 2),  # [C, D], C a multiple of `items.CHUNK`
}
# Of a graph in half precision these may be float16; the bundle's tables stay float32.
HALF_INPUTS = ("item_inputs", "item_outputs")
# And what a graph reads that chooses candidates by 8-bit codes; see `quantise`.
CODE_INPUTS = {CODES: ("int8", 2), SCALES: ("float32", 1)}  # [D, R], [R]
CODE_FILES = {name: f"tables/{name}.npy" for name in CODE_INPUTS}
SEQUENCE_OUTPUTS = {
    "rows": ("int64", 2),  # [B, K], best first
    "scores": ("float32", 2),  # [B, K]
    "states": ("float32", 2),  # [B, D]: the score of a row is its product with the state
}
# The same of the explain graph, which every export writes and a bundle may lack.
EXPLAIN_INPUTS = {
    "history": ("int64", 2),  # [B, L] as above
    "length": ("int64", 1),  # [B]
    "candidates": ("int64", 2),  # [B, M] rows that are scored
    "switches": ("float32", 2),  # [B, S] 1: the source is on, 0: left out
    "item_inputs": ("float32", 2),  # [C, W]
    "item_outputs": ("float32", 2),  # [C, D]
}
EXPLAIN_OUTPUTS = {"scores": ("float32", 2), "attention": ("float32", 2)}  # [B, M], [B, L]


@dataclass(frozen=True, kw_only=True)
class OpenedBundle:
    """A verified bundle with its tables memory-mapped.

    Copy on write: what is written into them stays in this process's memory, page by page.
    """

    folder: Path
    manifest: Manifest
    catalogue: Catalogue
    item_inputs_CW: npt.NDArray[np.float32]
    item_outputs_CD: npt.NDArray[np.float32]
    # item_codes int8 [D, C], item_scales float32 [C]; empty unless the sequence graph reads them
    codes: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    # What items are compared by content with; None in bundles that were exported without it.
    content_CD: npt.NDArray[np.float32] | None = None

    @property
    def sequence_spec(self) -> GraphSpec:
        """The graph that recommends."""
        return self.manifest.graphs["sequence"]

    @property
    def sequence_path(self) -> Path:
        """Where that graph lies."""
        return self.folder / self.sequence_spec.file

    @property
    def explain_spec(self) -> GraphSpec | None:
        """The graph that explains; None in bundles that were exported without it."""
        return self.manifest.graphs.get("explain")

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources of the attention in the order of the explain graph's switches."""
        return sources_of(self.manifest)


def open_bundle(
    folder: Path, *, verified: bool = False, rest: Callable[[], None] = lambda: None
) -> OpenedBundle:
    """Verify hashes, names, sizes and types; `BundleError` names the file that is wrong.

    `verified`: the hashes were compared just now. `rest` is called between pieces of the work.
    """
    manifest = load_manifest(folder)
    if not verified:
        verify_files(folder, manifest)
    _check_manifest(folder, manifest)
    sizes = manifest.tables
    catalogue = load_catalogue(folder, rest)
    _check_catalogue(folder / CATALOGUE, catalogue, sizes.items)
    return OpenedBundle(
        folder=folder,
        manifest=manifest,
        catalogue=catalogue,
        item_inputs_CW=map_table(folder / ITEM_INPUTS, (sizes.capacity, sizes.input_width)),
        item_outputs_CD=map_table(folder / ITEM_OUTPUTS, (sizes.capacity, sizes.output_width)),
        codes=_open_codes(folder, manifest),
        content_CD=_open_content(folder, manifest),
    )


def _check_manifest(folder: Path, manifest: Manifest) -> None:
    if "sequence" not in manifest.graphs:
        _refuse(folder, f"the manifest has no graph 'sequence', only {sorted(manifest.graphs)}")
    sequence = manifest.graphs["sequence"]
    codes = CODE_FILES.values() if has_codes(sequence) else ()
    for name in (sequence.file, ITEM_INPUTS, ITEM_OUTPUTS, CATALOGUE, PROBE, *codes):
        if name not in manifest.files:
            _refuse(folder / name, "not in the manifest")
    _check_contract(folder / sequence.file, "input", sequence.inputs, _sequence_inputs(sequence))
    _check_contract(folder / sequence.file, "output", sequence.outputs, SEQUENCE_OUTPUTS)
    if "explain" in manifest.graphs:
        _check_explain(folder, manifest)
    sizes = manifest.tables
    # A row beside the items is left where all are bound: what is excluded is padded with it.
    if sizes.items < 1 or sizes.capacity % CHUNK or bound_rows(sizes.items) > sizes.capacity:
        _refuse(
            folder,
            f"{sizes.items} items in tables of {sizes.capacity} rows; expected at least 1 item, "
            f"and rows in a multiple of {CHUNK} for row 0 and each item",
        )
    if manifest.max_length < 1:
        _refuse(folder, f"max_length {manifest.max_length}; expected at least 1")


def has_codes(sequence: GraphSpec) -> bool:
    """Tell whether the sequence graph chooses candidates by 8-bit codes."""
    return any(tensor.name in CODE_INPUTS for tensor in sequence.inputs)


def _sequence_inputs(sequence: GraphSpec) -> dict[str, tuple[str, int]]:
    """Return the inputs that a sequence graph of this kind must have."""
    expected = SEQUENCE_INPUTS | (CODE_INPUTS if has_codes(sequence) else {})
    halves = {t.name for t in sequence.inputs if t.dtype == "float16" and t.name in HALF_INPUTS}
    return expected | {name: ("float16", expected[name][1]) for name in halves}


def _check_explain(folder: Path, manifest: Manifest) -> None:
    explain = manifest.graphs["explain"]
    path = folder / explain.file
    if explain.file not in manifest.files:
        _refuse(path, "not in the manifest")
    _check_contract(path, "input", explain.inputs, EXPLAIN_INPUTS)
    _check_contract(path, "output", explain.outputs, EXPLAIN_OUTPUTS)
    [switches] = [tensor.shape[1] for tensor in explain.inputs if tensor.name == "switches"]
    sources = sources_of(manifest)
    if switches != len(sources):
        _refuse(path, f"{switches} switches for the sources {', '.join(sources)}")


def sources_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the sources of a model's attention in their order: the id first, then as trained.

    The running state's own attention is called `id`, also where no ids were trained.
    """
    trained: Sequence[str] = manifest.model.get("sources", ())
    return ("id", *(source for source in trained if source != "id"))


def _check_contract(
    path: Path, what: str, specs: tuple[TensorSpec, ...], expected: dict[str, tuple[str, int]]
) -> None:
    found = {spec.name: (spec.dtype, len(spec.shape)) for spec in specs}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            _refuse(
                path,
                f"{what} {name!r} (type, rank) is {found.get(name, 'not there')}, this release "
                f"expects {expected.get(name, 'none of that name')}",
            )


def _check_catalogue(path: Path, catalogue: Catalogue, items: int) -> None:
    if len(catalogue) != items:
        _refuse(path, f"{len(catalogue)} items, the manifest says {items}")
    most = Limits().id_bytes
    for item_id in catalogue.item_ids:
        if not 1 <= len(item_id.encode()) <= most:
            _refuse(path, f"item id {item_id[:40]!r}: expected 1 to {most} bytes")


def _open_codes(folder: Path, manifest: Manifest) -> dict[str, npt.NDArray[Any]]:
    if not has_codes(manifest.graphs["sequence"]):
        return {}
    sizes = manifest.tables
    shapes = {CODES: (sizes.output_width, sizes.capacity), SCALES: (sizes.capacity,)}
    return {
        name: map_table(folder / file, shapes[name], CODE_INPUTS[name][0])
        for name, file in CODE_FILES.items()
    }


def _open_content(folder: Path, manifest: Manifest) -> npt.NDArray[np.float32] | None:
    if CONTENT not in manifest.files:
        return None
    return map_table(folder / CONTENT, (manifest.tables.capacity, manifest.tables.output_width))


def _refuse(path: Path, reason: str) -> None:
    raise BundleError(f"{path}: {reason}; export the model again")
