"""The engines of a bundle, built from the bundle alone, compared, and kept beside it.

    REPO/engines/<bundle id>/<flavour>-<version>-<sm>/   one plan a graph, and engine.json
    REPO/timing-cache/<flavour>-<version>-<sm>           what TensorRT measured in earlier builds
                                                         (TensorRT-RTX measures nothing)

Where they can be run (on a GPU) each is asked first, through the runner that will serve it: one
that answers otherwise than its graph is not kept. Never built by the server. Imports no torch; the
half-precision graph is written with onnx.
"""

import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mmsr.bundle.files import sha256_file, write_json
from mmsr.bundle.manifest import GraphSpec, Manifest
from mmsr.bundle.repository import Repository
from mmsr.engine.encoders import text_precision_of
from mmsr.engine.errors import DeviceFailed
from mmsr.engine.opened import OpenedBundle, open_bundle
from mmsr.engine.precision import FP32, precision_of
from mmsr.engine.runners.base import Runner
from mmsr.engine.runners.engine_files import (
    ENGINE_FORMAT,
    ENGINE_MANIFEST,
    EngineFile,
    read_engine,
)
from mmsr.export.tensorrt.builder import BuildRequest, build_engine
from mmsr.export.tensorrt.compare import NOTHING_CHANGED, Reference, compare_engine
from mmsr.export.tensorrt.flavour import Flavour, Gpu, TensorRTError
from mmsr.export.tensorrt.profiles import Buckets, profiles_of

Precision = Literal["fp32", "fp16"]
# Their engines nobody serves: items' rows are made where new items come in, on the CPU, and
# explanations are asked for seldom. The item graph's is built for whoever asks for it by name.
UNASKED = ("explain", "item")
UNSERVED = ("explain",)
NOT_PROVEN = (
    "no GPU here: no engine was run. mmsr-serve compares the sequence graph's with PyTorch's "
    "answers when it loads it; an encoder's it uses where mmsr-repo engines has compared it"
)

# Told the graph, what is being done to it, steps done, steps in all.
TellGraph = Callable[[str, str, int, int], None]
# Loads an engine of a graph.
OpenEngine = Callable[[EngineFile, GraphSpec], Runner]


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """What to build the engines for."""

    flavour: Flavour
    gpu: Gpu | None
    precision: Precision = "fp16"
    buckets: Buckets = field(default_factory=Buckets)
    graphs: tuple[str, ...] | None = None  # None: all of the bundle but those of UNASKED
    open_engine: OpenEngine | None = None  # None: no engine can be run here


@dataclass(frozen=True, kw_only=True)
class EngineEntry:
    """One engine, as engine.json describes it."""

    plan: str  # file name
    sha256: str
    bytes: int
    seconds: float  # of building
    onnx_sha256: str  # of the bundle's graph
    precision: Precision
    profiles: list[dict[str, Any]]
    parity: dict[str, Any] | None = None  # what the comparison measured; None: it was not run


def build_engines(
    repository: Repository, bundle_id: str, choice: EngineChoice, tell: TellGraph
) -> tuple[Path, dict[str, EngineEntry]]:
    """Build the engines of a bundle and compare them; return their folder and what is in it.

    Engines of the same TensorRT that were there before are replaced, all at once. `TensorRTError`
    names the graph that cannot be built or answers wrongly, and then nothing is changed;
    `BundleError` if the bundle is damaged.
    """
    bundle = open_bundle(repository.path(bundle_id))
    graphs = _chosen(bundle.manifest, choice.graphs)
    name = choice.flavour.folder_name(choice.gpu)
    target = repository.root / "engines" / bundle_id / name
    cache = repository.root / "timing-cache" / name
    cache.parent.mkdir(exist_ok=True)
    with repository.stage() as staged:
        folder = staged / name
        folder.mkdir()
        entries = {
            graph: _build(graph, bundle.folder, folder, choice, (bundle.manifest, cache, tell))
            for graph in graphs
        }
        write_json(folder / ENGINE_MANIFEST, described(bundle_id, choice, entries))
        if choice.open_engine is not None:
            entries = _compared(bundle, folder, entries, choice.open_engine, tell)
            write_json(folder / ENGINE_MANIFEST, described(bundle_id, choice, entries))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            os.rename(target, staged / "replaced")
        os.rename(folder, target)
    return target, entries


def _compared(
    bundle: OpenedBundle,
    folder: Path,
    entries: dict[str, EngineEntry],
    open_engine: OpenEngine,
    tell: TellGraph,
) -> dict[str, EngineEntry]:
    """Return the entries with what the comparison of each engine in `folder` measured."""
    reference = Reference(bundle)
    compared = {}
    for place, (graph, entry) in enumerate(entries.items()):
        tell(graph, "compared", place, len(entries))
        file = read_engine(folder / ENGINE_MANIFEST, bundle.folder.name, graph)
        assert file is not None  # it was written just now
        try:
            with closing(open_engine(file, bundle.manifest.graphs[graph])) as runner:
                measured = compare_engine(graph, file, runner, reference)
        except DeviceFailed as error:
            raise TensorRTError(f"{graph}: {error}; {NOTHING_CHANGED}") from None
        compared[graph] = replace(entry, parity=measured)
    return compared


def _chosen(manifest: Manifest, wanted: Sequence[str] | None) -> list[str]:
    unknown = sorted(set(wanted or ()) - set(manifest.graphs))
    if unknown:
        known = ", ".join(manifest.graphs)
        raise TensorRTError(f"no graph {unknown[0]!r} in the bundle; there are: {known}")
    unserved = sorted(set(wanted or ()) & set(UNSERVED))
    if unserved:
        raise TensorRTError(
            f"no engine of the graph {unserved[0]!r} would be used, ONNX Runtime computes it; "
            "leave it out"
        )
    chosen = [
        name
        for name in manifest.graphs
        if (name not in UNASKED if wanted is None else name in wanted)
    ]
    for name in chosen:  # before any is built, which takes minutes
        require_fp32(name, manifest)
    return chosen


def _build(
    graph: str,
    bundle: Path,
    folder: Path,
    choice: EngineChoice,
    context: tuple[Manifest, Path, TellGraph],
) -> EngineEntry:
    manifest, cache, tell = context
    onnx = bundle / manifest.graphs[graph].file
    spec = manifest.graphs[graph]
    profiles = profiles_of(graph, manifest, choice.buckets)
    request = BuildRequest(
        onnx=_in_precision(graph, onnx, folder, choice.precision, spec),
        spec=spec,
        profiles=profiles,
        timing_cache=cache,
    )
    built = build_engine(request, choice.flavour, lambda *step: tell(graph, *step))
    if request.onnx != onnx:
        request.onnx.unlink()
    plan = folder / f"{graph}.plan"
    plan.write_bytes(built.plan)
    return EngineEntry(
        plan=plan.name,
        sha256=sha256_file(plan),
        bytes=len(built.plan),
        seconds=round(built.seconds, 3),
        onnx_sha256=sha256_file(onnx),
        precision=choice.precision,
        profiles=[{name: asdict(sizes) for name, sizes in p.items()} for p in profiles],
    )


def require_fp32(graph: str, manifest: Manifest) -> None:
    """Raise `TensorRTError` for a graph in another precision: engines choose their own."""
    written, option = {
        "sequence": (precision_of(manifest), "--precision"),
        "text_encoder": (text_precision_of(manifest), "--text-precision"),
    }.get(graph, (FP32, ""))
    if written != FP32:
        raise TensorRTError(
            f"the bundle's {graph} graph is in {written}, engines are built from fp32; export "
            f"with {option} fp32 (the engines' own is chosen here), or name the other graphs with "
            "--graph"
        )


def _in_precision(
    graph: str, onnx: Path, folder: Path, precision: Precision, spec: GraphSpec
) -> Path:
    if precision == "fp32":
        return onnx
    from mmsr.export.precision import SEQUENCE_HALF_INPUTS, write_half

    target = folder / spec.file
    write_half(onnx, target, SEQUENCE_HALF_INPUTS if graph == "sequence" else ())
    return target


def described(
    bundle_id: str, choice: EngineChoice, entries: dict[str, EngineEntry]
) -> dict[str, Any]:
    """Return what engine.json says of a bundle's engines."""
    proven = bool(entries) and all(entry.parity is not None for entry in entries.values())
    return {
        "format_version": ENGINE_FORMAT,
        "bundle_id": bundle_id,
        "flavour": choice.flavour.name,
        "version": choice.flavour.version,
        "gpu": None if choice.gpu is None else asdict(choice.gpu),
        "machine": platform.platform(),
        "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "engines": {name: asdict(entry) for name, entry in entries.items()},
        "parity": {"proven": proven, "reason": None if proven else NOT_PROVEN},
    }
