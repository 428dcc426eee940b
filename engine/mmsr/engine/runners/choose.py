"""Which runner computes a graph: the fastest that this machine can use, or the one asked for.

TensorRT where an engine lies beside the bundle that fits this GPU and version, else ONNX Runtime
on CUDA, else on the CPU. `choose` decides by what was found; everything else finds or opens.
"""

import importlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, NamedTuple

import onnxruntime as ort

from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.config import RunnerName
from mmsr.engine.errors import ConfigError, DeviceFailed
from mmsr.engine.opened import OpenedBundle
from mmsr.engine.precision import precision_of
from mmsr.engine.runners.base import Runner
from mmsr.engine.runners.buckets import Steps
from mmsr.engine.runners.cuda import CudaDevice
from mmsr.engine.runners.engine_files import (
    EngineFile,
    encoder_steps,
    find_engines,
    sequence_steps,
    steps_of,
)
from mmsr.engine.runners.fallback import WithFallback
from mmsr.engine.runners.gpu import MODULES, Gpu, find_gpu
from mmsr.engine.runners.onnx import open_onnx
from mmsr.engine.runners.onnx_cuda import PROVIDER, open_onnx_cuda
from mmsr.engine.runners.tensorrt import TensorRTRunner
from mmsr.engine.runners.tensorrt_engine import LoadedEngine

SEQUENCE = "sequence"
LARGEST_BATCH = 256  # rows of one call on a device; more are computed in pieces
MOST_EXCLUDED = 16_384  # rows: what a request may exclude, and its history
MOST_RESULTS = 1000
LARGEST_ENCODED = 64  # images or texts of one call on a device
LONGEST_TEXT = 512  # tokens, where the bundle does not say
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What there is to compute with."""

    gpu: Gpu | None = None
    flavours: Mapping[str, str] = field(default_factory=dict)  # installed TensorRTs -> versions
    cuda: bool = False  # whether ONNX Runtime and CUDA's own bindings are there for a GPU

    def __str__(self) -> str:
        """Return it as half a sentence."""
        if self.gpu is None:
            return "no CUDA device"
        have = ", ".join(f"{name} {version}" for name, version in self.flavours.items())
        return f"{have or 'no TensorRT'} on {self.gpu.name} ({self.gpu.sm})"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is to compute a graph."""

    runner: Literal["cpu", "cuda", "engine"]
    engine: EngineFile | None = None
    warning: str | None = None  # why it is not what somebody may expect


def choose(wanted: RunnerName, machine: Machine, engines: Sequence[EngineFile]) -> Choice:
    """Return the best of what was found; `ConfigError` if what is wanted is not there."""
    if wanted == "cpu":
        return Choice(runner="cpu")
    if wanted in MODULES:
        engines = [engine for engine in engines if engine.flavour == wanted]
    if wanted != "cuda":
        # As MODULES are ordered: TensorRT is the faster one where both are there.
        for flavour in MODULES:
            for engine in engines:
                if engine.flavour == flavour and fits(engine, machine):
                    return Choice(runner="engine", engine=engine)
    if wanted in MODULES:
        found = ", ".join(map(str, engines)) or "none"
        raise ConfigError(
            f"runner {wanted}: no engine for {machine} lies beside the bundle (found: {found}); "
            "build one with mmsr-repo engines on this machine, or choose --runner auto"
        )
    if wanted == "cuda" and not machine.cuda:
        raise ConfigError(
            f"runner cuda: ONNX Runtime cannot use CUDA here ({machine}); choose --runner auto"
        )
    warning = None
    if engines and wanted == "auto":
        warning = (
            f"the bundle's engines are for {', '.join(map(str, engines))}, here is {machine}: ONNX "
            "Runtime serves instead; mmsr-repo engines builds them for this machine"
        )
    return Choice(runner="cuda" if machine.cuda else "cpu", warning=warning)


def fits(engine: EngineFile, machine: Machine) -> bool:
    """Tell whether an engine was built for this GPU and by the version that is installed."""
    return (
        machine.gpu is not None
        and machine.flavours.get(engine.flavour) == engine.version
        and engine.sm in (None, machine.gpu.sm)
    )


def proven(engines: Sequence[EngineFile], machine: Machine, graph: str) -> list[EngineFile]:
    """Return the engines whose answers were compared on this kind of GPU; warn of the others."""
    kind = machine.gpu.sm if machine.gpu else None
    kept = [engine for engine in engines if engine.proven_on == kind]
    others = [str(engine) for engine in engines if engine not in kept and fits(engine, machine)]
    if others:
        log.warning(
            "the %s engine for %s was never compared on %s: it is not used; mmsr-repo engines on "
            "this machine builds and compares it",
            graph,
            ", ".join(others),
            kind,
        )
    return kept


def open_engine(file: EngineFile, spec: GraphSpec) -> TensorRTRunner:
    """Load an engine of a graph on this machine's GPU.

    `DeviceFailed` if this GPU or version does not take it, `BundleError` if the file is damaged.
    """
    module = importlib.import_module(MODULES[file.flavour])
    device = CudaDevice()
    engine = LoadedEngine(module, file.read())
    gpu = this_machine().gpu
    name = f"{file.flavour} {file.version} {file.precision}, {gpu.name if gpu else 'GPU'}"
    return TensorRTRunner(engine, spec, steps_of(file), device, name=name)


@cache
def this_machine() -> Machine:
    """Look what there is; asks for a GPU first, as some TensorRTs end a process without one."""
    gpu = find_gpu()
    if gpu is None:
        return Machine()
    flavours = {}
    for name, module in MODULES.items():
        try:
            flavours[name] = str(importlib.import_module(module).__version__)
        except (ImportError, OSError) as error:
            log.debug("%s is not there: %s", name, error)
    try:
        importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        log.warning(
            "%s is not used: cuda-bindings is not installed (%s); pip install 'mmsr[cuda]'",
            gpu.name,
            error,
        )
        return Machine()
    return Machine(gpu=gpu, flavours=flavours, cuda=PROVIDER in ort.get_available_providers())


class OpenedRunner(NamedTuple):
    """A runner, and what must be known of it beside its interface."""

    runner: Runner
    precision: str  # that it computes in
    on_device: bool


@dataclass(frozen=True, kw_only=True)
class Runners:
    """Opens the runners of one bundle."""

    wanted: RunnerName = "auto"
    threads: int = 1  # of one operator, on the CPU

    def open(self, bundle: OpenedBundle, graph: str) -> OpenedRunner:
        """Return a graph's runner.

        `BundleError`: the graph is not what the manifest says. `ConfigError`: what is wanted is not
        there. An engine or device that fails when it is opened is warned of and passed over, unless
        it is the one wanted: `DeviceFailed`.
        """
        engines = find_engines(bundle.folder, graph)
        # The sequence graph's is compared with PyTorch's answers whenever it is loaded.
        if graph != SEQUENCE and self.wanted not in ("cpu", "cuda"):
            engines = proven(engines, this_machine(), graph)
        choice = choose(self.wanted, this_machine(), engines)
        if choice.warning and graph == SEQUENCE:
            log.warning("%s", choice.warning)
        written = precision_of(bundle.manifest)
        try:
            if choice.engine is not None:
                runner = self._engine(bundle, graph, choice.engine)
                return OpenedRunner(runner, choice.engine.precision, True)
            if choice.runner == "cuda":
                return OpenedRunner(self._cuda(bundle, graph), written, True)
        except (DeviceFailed, BundleError) as error:
            if self.wanted != "auto":
                raise
            log.warning("%s; ONNX Runtime serves %s on the CPU instead", error, graph)
        return OpenedRunner(self._cpu(bundle, graph), written, False)

    def _engine(self, bundle: OpenedBundle, graph: str, file: EngineFile) -> Runner:
        runner = open_engine(file, bundle.manifest.graphs[graph])
        return WithFallback(runner, lambda: self._cpu(bundle, graph))

    def _cuda(self, bundle: OpenedBundle, graph: str) -> Runner:
        spec = bundle.manifest.graphs[graph]
        runner = open_onnx_cuda(
            bundle.folder / spec.file, spec, device_steps(bundle, graph), CudaDevice()
        )
        return WithFallback(runner, lambda: self._cpu(bundle, graph))

    def _cpu(self, bundle: OpenedBundle, graph: str) -> Runner:
        spec = bundle.manifest.graphs[graph]
        return open_onnx(bundle.folder / spec.file, spec, threads=self.threads)


def device_steps(bundle: OpenedBundle, graph: str) -> Steps:
    """Return the sizes that a graph is padded to where no engine's profiles say them."""
    manifest = bundle.manifest
    if graph == SEQUENCE:
        return sequence_steps(
            batch=LARGEST_BATCH,
            length=manifest.max_length,
            excluded=MOST_EXCLUDED,
            results=min(MOST_RESULTS, manifest.tables.items),
        )
    text = manifest.features.get("text") or {}
    return encoder_steps(
        manifest.graphs[graph].inputs,
        batch=LARGEST_ENCODED,
        length=int(text.get("max_tokens", LONGEST_TEXT)),
    )
