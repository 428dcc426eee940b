"""`manifest.json`: what a bundle holds, where it comes from and what was proven of it."""

import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mmsr.bundle.errors import BundleError, MmsrError
from mmsr.bundle.files import read_json, sha256_file, sha256_json, write_json

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
SHA256 = re.compile(r"[0-9a-f]{64}")
# The fields that answers depend on, beside the files; metrics and provenance are only said of them.
IDENTIFYING = frozenset(
    {"format_version", "max_length", "exclude_seen", "tables", "graphs", "model", "features"}
)


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Name, element type (numpy's name) and shape of one graph input or output.

    A string in `shape` names a dimension that may vary from call to call.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """One ONNX graph of the bundle."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Hash and size of one file of the bundle."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class TableSizes:
    """Rows and widths of the item tables.

    Row 0 is padding and never eligible; items take rows 1 to `items`; the rows up to `capacity`
    are spare, for items added while serving.
    """

    items: int
    capacity: int
    input_width: int  # columns of tables/item_inputs.npy
    output_width: int  # columns of tables/item_outputs.npy


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that the engine and a reviewer must know of a bundle."""

    format_version: int = FORMAT_VERSION
    max_length: int  # history items that the model reads
    exclude_seen: bool  # default of the request field of that name
    tables: TableSizes
    graphs: dict[str, GraphSpec]  # "sequence", "explain", "item", "image_encoder", ...
    model: dict[str, Any]  # the model's configuration, as trained
    features: dict[str, Any]  # how images and texts become features, per modality
    files: dict[str, FileEntry] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)

    @property
    def bundle_id(self) -> str:
        """Sixteen hex digits that follow from the content alone, not from when it was made."""
        content = {name: entry.sha256 for name, entry in self.files.items()}
        said = replace(self, files={}, provenance={}, metrics={}, parity={})  # large, and not read
        settings = {key: value for key, value in asdict(said).items() if key in IDENTIFYING}
        return sha256_json([content, settings])[:16]

    def save(self, folder: Path) -> None:
        """Write `folder/manifest.json`."""
        said = {"bundle_id": self.bundle_id, **asdict(self)}
        write_json(folder / MANIFEST, {"checksum": sha256_json(said), **said})


def load_manifest(folder: Path) -> Manifest:
    """Read and check `folder/manifest.json`; `BundleError` says what is wrong with it."""
    path = folder / MANIFEST
    try:
        raw = read_json(path, "the manifest of a bundle")
    except MmsrError as error:
        raise BundleError(str(error)) from None
    if not isinstance(raw, dict) or raw.get("format_version") != FORMAT_VERSION:
        found = raw.get("format_version") if isinstance(raw, dict) else type(raw).__name__
        raise BundleError(
            f"{path}: format version {found!r}, this release reads {FORMAT_VERSION}; "
            "export the model again with this release"
        )
    checksum = raw.pop("checksum", None)  # None: written before there were any
    if checksum is not None and checksum != sha256_json(raw):
        raise BundleError(
            f"{path} does not say any more what its checksum was taken of; the file was damaged or "
            "edited; export the model again"
        )
    claimed = raw.pop("bundle_id", None)
    try:
        manifest = _parse(raw)
        _check_names([*manifest.files, *(graph.file for graph in manifest.graphs.values())])
        _check_hashes(manifest.files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} is damaged ({error!r}); export the model again") from None
    if claimed != manifest.bundle_id:
        raise BundleError(
            f"{path}: bundle id {claimed!r} does not follow from the content "
            f"({manifest.bundle_id}); the manifest was edited; export the model again"
        )
    return manifest


def _check_names(names: list[str]) -> None:
    """Raise `ValueError` for a file name that leads out of the bundle."""
    for name in names:
        path = PurePosixPath(name)
        leads_out = path.is_absolute() or ".." in path.parts or not path.parts
        if leads_out or str(path) != name or not name.isprintable() or name == MANIFEST:
            raise ValueError(f"file name {name!r}")


def _check_hashes(files: dict[str, FileEntry]) -> None:
    """Raise `ValueError` for what is no hash: object storage names its objects by them."""
    for name, entry in files.items():
        if not (isinstance(entry.sha256, str) and SHA256.fullmatch(entry.sha256)):
            raise ValueError(f"SHA-256 of {name!r}: {entry.sha256!r}")


def _parse(raw: dict[str, Any]) -> Manifest:
    graphs = {name: _parse_graph(graph) for name, graph in raw.pop("graphs").items()}
    files = {name: FileEntry(**entry) for name, entry in raw.pop("files").items()}
    return Manifest(graphs=graphs, files=files, tables=TableSizes(**raw.pop("tables")), **raw)


def _parse_graph(raw: dict[str, Any]) -> GraphSpec:
    def tensors(key: str) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name=t["name"], dtype=t["dtype"], shape=tuple(t["shape"])) for t in raw[key]
        )

    return GraphSpec(file=raw["file"], inputs=tensors("inputs"), outputs=tensors("outputs"))


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """Hash every file under `folder` but the manifest itself."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {
        str(path.relative_to(folder)): FileEntry(
            sha256=sha256_file(path), bytes=path.stat().st_size
        )
        for path in paths
    }


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with its hash; `BundleError` names the first that differs."""
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{path} is missing; export the model again")
        size = path.stat().st_size
        if size != entry.bytes:
            raise BundleError(
                f"{path}: {size} bytes, the manifest says {entry.bytes}; the file was cut or "
                "replaced; export the model again"
            )
        if sha256_file(path) != entry.sha256:
            raise BundleError(
                f"{path}: its SHA-256 is not the manifest's {entry.sha256[:12]}…; the file was "
                "changed; export the model again"
            )
    known = set(manifest.files) | {MANIFEST}
    for path in folder.rglob("*"):
        if path.is_file() and str(path.relative_to(folder)) not in known:
            raise BundleError(f"{path} is not in the manifest; remove it or export again")
