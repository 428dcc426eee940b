"""Encoders hold no trained weight: one that was converted before is taken from its bundle."""

import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import mmsr.export
import mmsr.training.features
from mmsr.bundle.errors import BundleError
from mmsr.bundle.files import sha256_file
from mmsr.bundle.manifest import GraphSpec, load_manifest
from mmsr.bundle.repository import Repository
from mmsr.export.template_store import CONVERTER, hash_of_sources, version_of

# What builds each encoder's modules, beside the converter and this release.
BUILT_BY = {"image_encoder": ("torchvision",), "text_encoder": ("transformers", "tokenizers")}
CONVERTED_BY = ("convert.py", "encoders.py", "onnx_file.py")  # of this package


def follows_from(graph: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return all that an encoder's graph follows from, as a manifest records it.

    The encoder's description (with the hash of its weights), the versions of what builds and
    converts it, and the hash of the source that does.
    """
    packages = ("mmsr", *CONVERTER, *BUILT_BY[graph])
    versions = {name: version_of(name) for name in packages}
    return {"spec": spec, "versions": versions, "source": encoder_source()}


@cache
def encoder_source() -> str:
    """Hash the source files that build an encoder and convert it."""
    features = [Path(root) for root in mmsr.training.features.__path__]
    files = [(root, path) for root in features for path in sorted(root.glob("*.py"))]
    files += [(Path(root), Path(root) / n) for root in mmsr.export.__path__ for n in CONVERTED_BY]
    return hash_of_sources(files)


def reuse_graph(
    repository: Repository,
    graph: str,
    wanted: dict[str, Any],
    files: tuple[str, ...],
    folder: Path,
) -> GraphSpec | None:
    """Bring `files` of `graph` into `folder` from a bundle that made them from the same.

    `wanted` is what `follows_from` returns. A file whose hash is not its manifest's is passed over.
    Returns None where there is no such bundle.
    """
    for bundle_id in reversed(repository.ids()):
        try:
            with repository.hold(bundle_id) as source:
                spec = _take(source, graph, wanted, files, folder)
        except BundleError:
            continue  # damaged, pruned meanwhile, or of another format: not ours to judge here
        if spec is not None:
            return spec
    return None


def _take(
    source: Path, graph: str, wanted: dict[str, Any], files: tuple[str, ...], folder: Path
) -> GraphSpec | None:
    manifest = load_manifest(source)
    made_from = manifest.provenance.get("made_from", {}).get(graph)
    if made_from != wanted or graph not in manifest.graphs:
        return None
    if all(_bring(source / name, folder / name, manifest.files[name].sha256) for name in files):
        return manifest.graphs[graph]
    for name in files:  # what is written here later must not reach that bundle by a link
        (folder / name).unlink(missing_ok=True)
    return None


def _bring(source: Path, target: Path, sha256: str) -> bool:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)  # bundles are immutable: two may share the bytes
    except FileNotFoundError:
        return False
    except OSError:  # the file system has no hard links
        shutil.copyfile(source, target)
    return sha256_file(target) == sha256
