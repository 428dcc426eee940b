"""A bundle as a Triton model repository: `sequence`, `image_encoder` and `text_encoder`.

    DIR/<model>/config.pbtxt
    DIR/<model>/warmup/                        the inputs of the warm-up
    DIR/<model>/<version>/model.onnx           and what it needs beside it
    DIR/<model>/<version>/made_from.json       its bundle, and the SHA-256 of its sources

A new bundle becomes the next version of a model, a running Triton that polls DIR goes over to it;
a model whose files are the same stays. All models are made and compared before any is put in place
(`triton_place`). Knows no torch and no server.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmsr.bundle.catalogue import CATALOGUE
from mmsr.bundle.errors import BundleError, MmsrError
from mmsr.bundle.files import read_json, write_json
from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.opened import OpenedBundle, open_bundle
from mmsr.engine.runners.base import AnyArray
from mmsr.export.constant_tables import TABLES, write_constant_graph
from mmsr.export.triton_check import check_same_answers
from mmsr.export.triton_config import WarmUpInput, config_text
from mmsr.export.triton_place import (
    CONFIG,
    FIRST,
    WARM_UP,
    locked,
    move_in,
    seal,
    versions,
    workshop,
)

MODEL = "model.onnx"  # the name that Triton looks for
MADE_FROM = "made_from.json"
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


@dataclass(frozen=True, kw_only=True)
class StagedTriton:
    """The models of a bundle, made and compared; the model repository is as it was."""

    target: Path
    folder: Path  # where they lie
    made_from: Mapping[str, dict[str, str]]  # model -> file -> SHA-256 of all that it follows from

    def put_in_place(self, bundle_folder: Path) -> list[TritonModel]:
        """Move what is new into the model repository; return its models.

        `bundle_folder` is where the bundle lies now: read for what another writer has replaced
        since, which was there before and so was not made.
        """
        with locked(self.target):
            new = [name for name in self.made_from if not self.is_newest(name)]
            for name in new:
                if not (self.folder / name).is_dir():
                    self.make(open_bundle(bundle_folder), name)
            for name in new:
                move_in(self.folder / name, self.target / name)
            return [
                TritonModel(name=name, version=versions(self.target / name)[-1], new=name in new)
                for name in self.made_from
            ]

    def is_newest(self, name: str) -> bool:
        """Tell whether the newest version of a model follows from the same files."""
        there = versions(self.target / name)
        newest = self.target / name / str(there[-1]) if there else None
        return newest is not None and _made_from(newest) == self.made_from[name]

    def make(self, bundle: OpenedBundle, name: str) -> None:
        """Write a model with one version, whole."""
        folder = self.folder / name
        version = folder / FIRST
        version.mkdir(parents=True)
        spec = _fill(bundle, name, version)
        value = {"bundle_id": bundle.manifest.bundle_id, "files": self.made_from[name]}
        write_json(version / MADE_FROM, value)
        (folder / WARM_UP).mkdir()
        warm_up = _write_warm_up(bundle, name, spec, folder / WARM_UP)
        text = config_text(name, spec, warm_up, MAX_BATCH[name])
        (folder / CONFIG).write_text(text, encoding="utf-8")
        seal(folder)


@contextmanager
def staged_triton(bundle_folder: Path, target: Path) -> Iterator[StagedTriton]:
    """Make all that the model repository `target` lacks, beside it; what is left is removed.

    `BundleError`: the bundle is damaged, or its graph with constant tables answers differently.
    """
    bundle = open_bundle(bundle_folder)
    names = [name for name in EXTRA_FILES if name in bundle.manifest.graphs]
    with workshop(target) as folder:
        made_from = {name: _sources(bundle, name) for name in names}
        staged = StagedTriton(target=target, folder=folder, made_from=made_from)
        for name in names:
            if not staged.is_newest(name):
                staged.make(bundle, name)
        yield staged


def write_triton(bundle_folder: Path, target: Path) -> list[TritonModel]:
    """Write or renew the model repository `target`; return its models.

    `BundleError` as `staged_triton`; then `target` is as it was.
    """
    with staged_triton(bundle_folder, target) as staged:
        return staged.put_in_place(bundle_folder)


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
        (folder / tensor.name).write_bytes(value.tobytes())
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
