"""Templates of graphs, kept in a repository beside the bundles.

    REPO/templates/<graph>-<key>-<sha>.onnx

The key says what a graph follows from but its weights: the model's configuration, the source files
of training and export, and the versions of the converter. The hash is that of the content: a file
that is damaged is passed over. Templates are a cache: to remove them costs one conversion.
"""

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mmsr.export
import mmsr.training
from mmsr.bundle.files import sha256_json
from mmsr.export.template import Template

FOLDER = "templates"
DIGITS = 16
KEPT = 8  # templates of one graph, the last used
CONVERTER = ("torch", "onnx", "onnx-ir", "onnxscript")


@dataclass(frozen=True, kw_only=True)
class TemplateStore:
    """The templates of one repository."""

    root: Path  # of the repository
    fresh: bool = False  # convert anew whatever is there, and keep that

    @property
    def folder(self) -> Path:
        """Return where they lie."""
        return self.root / FOLDER

    def key(self, graph: str, architecture: dict[str, Any]) -> str:
        """Return what the template of such a graph is kept under."""
        versions = {name: version_of(name) for name in CONVERTER}
        return sha256_json([graph, architecture, source_hash(), versions])[:DIGITS]

    def load(self, graph: str, key: str) -> Template | None:
        """Return a whole template, if there is one; it counts as used."""
        for path in [] if self.fresh else self._newest_first(f"{graph}-{key}"):
            with suppress(FileNotFoundError):  # another export has tidied up just now
                content = path.read_bytes()
                if path.stem.endswith(f"-{_digest(content)}"):
                    os.utime(path)
                    return Template.from_bytes(content)
        return None

    def save(self, graph: str, key: str, template: Template, spare: Path) -> None:
        """Keep a template, written first to `spare` on the same file system."""
        content = template.to_bytes()
        self.folder.mkdir(exist_ok=True)
        spare.write_bytes(content)
        spare.replace(self.folder / f"{graph}-{key}-{_digest(content)}.onnx")
        for path in self._newest_first(graph)[KEPT:]:
            path.unlink(missing_ok=True)

    def _newest_first(self, beginning: str) -> list[Path]:
        dated = []
        for path in self.folder.glob(f"{beginning}-*.onnx"):
            with suppress(FileNotFoundError):
                dated.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(dated, reverse=True)]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


@cache
def source_hash() -> str:
    """Hash the source files of training and export: whatever a graph may be defined by."""
    roots = [Path(root) for package in (mmsr.training, mmsr.export) for root in package.__path__]
    return hash_of_sources((root, path) for root in roots for path in sorted(root.rglob("*.py")))


def hash_of_sources(files: Iterable[tuple[Path, Path]]) -> str:
    """Hash files by their names below their roots, and by their contents."""
    digest = hashlib.sha256()
    for root, path in files:
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def version_of(package: str) -> str | None:
    """Return the version of a package that is installed; None: it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
