"""A bundle as a Triton model repository: `sequence`, `image_encoder` and `text_encoder`.

    DIR/<model>/config.pbtxt
    DIR/<model>/warmup/                        the inputs of the warm-up
    DIR/<model>/<version>/model.onnx           and what it needs beside it
    DIR/<model>/<version>/made_from.json       its bundle, and the SHA-256 of its sources

A new bundle becomes the next version of a model, a running Triton that polls DIR goes over to it;
a model whose files are the same stays. Knows no torch and no server.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmsr.bundle.catalogue import CATALOGUE
from mmsr.bundle.errors import BundleError, MmsrError
from mmsr.bundle.files import atomic_path, read_json, sync_directory, write_json
from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.opened import OpenedBundle, open_bundle
from mmsr.engine.runners.base import AnyArray
from mmsr.export.constant_tables import TABLES, write_constant_graph
from mmsr.export.triton_check import check_same_answers
from mmsr.export.triton_config import WarmUpInput, config_text

MODEL = "model.onnx"  # the name that Triton looks for
MADE_FROM = "made_from.json"
VERSION = re.compile(r"[1-9][0-9]*")
KEPT_VERSIONS = 2  # Triton serves the newest; the one before may still be loaded
MAX_BATCH = {"sequence": 64, "image_encoder": 16, "text_encoder": 64}
TEXT_WARM_UP_TOKENS = 16
TOKENIZER = "tokenizer.json"
# Beside the graph, for the clients: rows are items by the catalogue of the same version.
EXTRA_FILES = {
    "sequence": (CATALOGUE,),
    "image_encoder": (),
    "text_encoder": (TOKENIZER,),
}


@dataclass(frozen=True, kw_only=True)
class TritonModel:
    """One model folder."""

    name: str
    version: int
    new: bool  # False: this version was there already


def write_triton(bundle_folder: Path, target: Path) -> list[TritonModel]:
    """Write or renew the model repository `target`; return its models.

    `BundleError`: the bundle is damaged, or its graph with constant tables answers differently.
    """
    bundle = open_bundle(bundle_folder)
    names = [name for name in EXTRA_FILES if name in bundle.manifest.graphs]
    target.mkdir(parents=True, exist_ok=True)
    return [_write_model(bundle, name, target / name) for name in names]


def _write_model(bundle: OpenedBundle, name: str, folder: Path) -> TritonModel:
    made_from = _sources(bundle, name)
    versions = _versions(folder)
    if versions and _made_from(folder / str(versions[-1])) == made_from:
        return TritonModel(name=name, version=versions[-1], new=False)
    folder.mkdir(exist_ok=True)
    number = versions[-1] + 1 if versions else 1
    staged = Path(tempfile.mkdtemp(dir=folder, prefix=".new-"))
    try:
        spec = _fill(bundle, name, staged)
        value = {"bundle_id": bundle.manifest.bundle_id, "files": made_from}
        write_json(staged / MADE_FROM, value)
        os.chmod(staged, 0o755)  # mkdtemp gives 0700; another user runs Triton
        warm_up = _write_warm_up(bundle, name, spec, folder / "warmup")
        text = config_text(name, spec, warm_up, MAX_BATCH[name])
        if versions:
            _publish(staged, folder / str(number))
            _write_text(folder / "config.pbtxt", text)
        else:  # a model is looked for as soon as its folder has a version
            _write_text(folder / "config.pbtxt", text)
            _publish(staged, folder / str(number))
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    for old in versions[: -(KEPT_VERSIONS - 1)]:
        shutil.rmtree(folder / str(old))
    return TritonModel(name=name, version=number, new=True)


def _fill(bundle: OpenedBundle, name: str, staged: Path) -> GraphSpec:
    """Write what belongs into a version's folder; return what Triton will see of the graph."""
    graph = bundle.manifest.graphs[name]
    for file in EXTRA_FILES[name]:
        if file in bundle.manifest.files:
            bring(bundle.folder / file, staged / file)
    # Copied: onnx's checker refuses hard links of what a graph refers to, as an attack.
    for file in _external_files(bundle, graph.file):
        (staged / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.folder / file, staged / file)
    if name != "sequence":
        bring(bundle.folder / graph.file, staged / MODEL)
        return graph
    for file in TABLES.values():
        shutil.copyfile(bundle.folder / file, staged / Path(file).name)
    spec = write_constant_graph(bundle, staged / MODEL)
    check_same_answers(bundle, staged / MODEL, spec)
    return spec


def _external_files(bundle: OpenedBundle, graph_file: str) -> set[str]:
    """Return the files that hold weights of a graph."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    model = onnx.load(bundle.folder / graph_file, load_external_data=False)
    files = {
        entry.value
        for tensor in model.graph.initializer
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    if missing := sorted(files - bundle.manifest.files.keys()):
        raise BundleError(
            f"{bundle.folder / graph_file} refers to {', '.join(missing)}, not in the manifest; "
            "export the model again"
        )
    return files


def bring(source: Path, target: Path) -> None:
    """Link `source` to `target`, or copy it where that cannot be."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _sources(bundle: OpenedBundle, name: str) -> dict[str, str]:
    """Return the SHA-256 of everything that the model follows from."""
    graph = bundle.manifest.graphs[name].file
    files = {graph, *_external_files(bundle, graph), *EXTRA_FILES[name]}
    if name == "sequence":
        files |= set(TABLES.values())
    known = bundle.manifest.files
    return {file: known[file].sha256 for file in sorted(files) if file in known}


def _made_from(version: Path) -> object:
    try:
        return read_json(version / MADE_FROM, "what a Triton model was made from").get("files")
    except (MmsrError, AttributeError):  # not ours, or damaged: written anew
        return None


def _versions(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if VERSION.fullmatch(path.name))


def _write_warm_up(
    bundle: OpenedBundle, name: str, spec: GraphSpec, folder: Path
) -> dict[str, WarmUpInput]:
    """Write one request's inputs as raw bytes; return how the configuration names them."""
    warm_up = {}
    values = _warm_up_values(bundle, name)
    for tensor in spec.inputs:
        value = values.get(tensor.name)
        if value is None:  # pixels: zeros are a picture
            dims = [size for size in tensor.shape[1:] if isinstance(size, int)]
            warm_up[tensor.name] = WarmUpInput(dims=dims)
            continue
        with atomic_path(folder / tensor.name) as temporary:
            temporary.write_bytes(value.tobytes())
        warm_up[tensor.name] = WarmUpInput(dims=value.shape, file=tensor.name)
    return warm_up


def _warm_up_values(bundle: OpenedBundle, name: str) -> Mapping[str, AnyArray]:
    if name == "sequence":
        length = bundle.manifest.max_length
        return {
            "history": np.ones(length, np.int64),  # row 1: there is always one
            "length": np.array([length], np.int64),
            "excluded": np.ones(length, np.int64),
            "k": np.array([min(10, bundle.manifest.tables.items)], np.int64),
        }
    if name == "text_encoder":
        most = int((bundle.manifest.features.get("text") or {}).get("max_tokens", 1))
        ones = np.ones(min(TEXT_WARM_UP_TOKENS, most), np.int64)
        return {"input_ids": ones, "attention_mask": ones}
    return {}


def _publish(staged: Path, target: Path) -> None:
    os.rename(staged, target)
    with suppress(OSError):  # object storage that is mounted may not know it
        sync_directory(target.parent)


def _write_text(path: Path, text: str) -> None:
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
