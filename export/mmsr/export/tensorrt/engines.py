"""The engines of a bundle, built from the bundle alone and kept beside it.

    REPO/engines/<bundle id>/<flavour>-<version>-<sm>/   one plan a graph, and engine.json
    REPO/timing-cache/<flavour>-<version>-<sm>           what TensorRT measured in earlier builds
                                                         (TensorRT-RTX measures nothing)

Never built by the server. Imports no torch; the half-precision graph is written with onnx.
"""

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmsr.bundle.files import sha256_file, write_json
from mmsr.bundle.manifest import GraphSpec, Manifest, verify_files
from mmsr.bundle.repository import Repository
from mmsr.engine.precision import FP32, precision_of
from mmsr.export.tensorrt.builder import BuildRequest, build_engine
from mmsr.export.tensorrt.flavour import Flavour, Gpu, TensorRTError
from mmsr.export.tensorrt.profiles import Buckets, profiles_of

Precision = Literal["fp32", "fp16"]
ENGINE_FORMAT = 1
ENGINE_MANIFEST = "engine.json"
# Asked so seldom that ONNX Runtime does: an engine of its own would hold memory for nothing.
SELDOM = ("explain",)
NOT_PROVEN = (
    "not compared with PyTorch here: mmsr-serve does so with the sequence graph's when it loads "
    "it, with no other"
)

# Told the graph, what is being done to it, steps done, steps in all.
TellGraph = Callable[[str, str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """What to build the engines for."""

    flavour: Flavour
    gpu: Gpu | None
    precision: Precision = "fp16"
    buckets: Buckets = field(default_factory=Buckets)
    graphs: tuple[str, ...] | None = None  # None: all of the bundle but those of SELDOM


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


def build_engines(
    repository: Repository, bundle_id: str, choice: EngineChoice, tell: TellGraph
) -> tuple[Path, dict[str, EngineEntry]]:
    """Build the engines of a bundle; return their folder and what is in it.

    Engines of the same TensorRT that were there before are replaced, all at once. `TensorRTError`
    names the graph, and then nothing is changed; `BundleError` if the bundle is damaged.
    """
    bundle = repository.path(bundle_id)
    manifest = repository.manifest(bundle_id)
    verify_files(bundle, manifest)
    name = choice.flavour.folder_name(choice.gpu)
    target = repository.root / "engines" / bundle_id / name
    cache = repository.root / "timing-cache" / name
    cache.parent.mkdir(exist_ok=True)
    with repository.stage() as staged:
        folder = staged / name
        folder.mkdir()
        entries = {
            graph: _build(graph, bundle, folder, choice, (manifest, cache, tell))
            for graph in _chosen(manifest, choice.graphs)
        }
        write_json(folder / ENGINE_MANIFEST, described(bundle_id, choice, entries))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            os.rename(target, staged / "replaced")
        os.rename(folder, target)
    return target, entries


def _chosen(manifest: Manifest, wanted: Sequence[str] | None) -> list[str]:
    unknown = sorted(set(wanted or ()) - set(manifest.graphs))
    if unknown:
        known = ", ".join(manifest.graphs)
        raise TensorRTError(f"no graph {unknown[0]!r} in the bundle; there are: {known}")
    return [
        name
        for name in manifest.graphs
        if (name not in SELDOM if wanted is None else name in wanted)
    ]


def _build(
    graph: str,
    bundle: Path,
    folder: Path,
    choice: EngineChoice,
    context: tuple[Manifest, Path, TellGraph],
) -> EngineEntry:
    manifest, cache, tell = context
    require_fp32(graph, manifest)
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
    """Raise `TensorRTError` for a sequence graph in another precision: engines choose their own."""
    written = precision_of(manifest)
    if graph == "sequence" and written != FP32:
        raise TensorRTError(
            f"the bundle's sequence graph is in {written}, engines are built from fp32; export "
            "with --precision fp32 (the engines' own is chosen here)"
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
    return {
        "format_version": ENGINE_FORMAT,
        "bundle_id": bundle_id,
        "flavour": choice.flavour.name,
        "version": choice.flavour.version,
        "gpu": None if choice.gpu is None else asdict(choice.gpu),
        "machine": platform.platform(),
        "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "engines": {name: asdict(entry) for name, entry in entries.items()},
        "parity": {"proven": False, "reason": NOT_PROVEN},
    }
