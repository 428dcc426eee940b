"""Section "refit": the next night's weights into last night's engine, or an engine built anew.

Seconds until ready and latency afterwards of both; after either the answers are compared with
PyTorch's, since a refit can keep stale weights and say nothing. Answers beyond fp16's limits fail
the section, once everything is measured.
"""

import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from benchmarks.gpu.contestants import TensorRT
from benchmarks.gpu.engine_run import EngineRun, EngineRunError
from benchmarks.gpu.graphs import SequenceFile, manifest_of, sequence_file
from benchmarks.gpu.setting import Findings, SectionSkippedError, Setting
from benchmarks.gpu.shop import PROBES, compare, make_tables
from benchmarks.gpu.timing import measure
from mmsr.engine.precision import limits_of
from mmsr.export.onnx_file import describe
from mmsr.export.tensorrt.builder import BuildRequest, build_engine
from mmsr.export.tensorrt.flavour import Flavour, find_flavour, find_gpu
from mmsr.export.tensorrt.profiles import Buckets, profiles_of

BUCKETS = Buckets(sequence=(1, PROBES))
TIMED_BATCHES = (1, PROBES)
PRECISION = "fp16"  # of the graphs
LAST_NIGHT, TONIGHT = 0, 1  # seeds of the weights


class RefitGateError(RuntimeError):
    """An engine that took new weights does not answer as PyTorch does with them."""


class Engines(Protocol):
    """Builds, refits and asks engines of one flavour; `run` is what `build` has returned."""

    def build(self, seed: int, *, refittable: bool) -> Any:
        """Return a loaded engine with the weights of a seed."""

    def refit(self, run: Any, seed: int) -> None:
        """Write the weights of a seed into a refittable engine."""

    def gate(self, run: Any, seed: int) -> dict[str, Any]:
        """Compare the engine's answers with PyTorch's by the weights of a seed."""

    def times(self, run: Any) -> dict[str, Any]:
        """Return the engine's latency by batch size."""


def refit_or_rebuild(setting: Setting, findings: Findings) -> None:
    """Measure both ways from the weights of seed 0 to those of seed 1."""
    gpu = find_gpu() if setting.cuda else None
    if gpu is None:
        raise SectionSkippedError("refittable engines are built on a machine with a GPU only")
    flavour = find_flavour(None, gpu)
    findings.put("flavour", f"{flavour.name} {flavour.version}")
    measure_both(TensorRTEngines(setting, flavour), findings)


def measure_both(engines: Engines, findings: Findings) -> None:
    """Measure a rebuild, then a refit; `RefitGateError` at the end if either answers wrongly."""
    for attempt in ("first build, cold", "rebuild, with timing cache"):
        began = time.perf_counter()
        run = engines.build(TONIGHT, refittable=False)
        findings.cell({"way": attempt, "ready_s": time.perf_counter() - began})
    rebuilt = engines.gate(run, TONIGHT)
    findings.cell({"way": "rebuilt", "gate": rebuilt, **engines.times(run)})
    began = time.perf_counter()
    run = engines.build(LAST_NIGHT, refittable=True)
    findings.cell({"way": "refittable, built once", "ready_s": time.perf_counter() - began})
    began = time.perf_counter()
    engines.refit(run, TONIGHT)
    ready_s = time.perf_counter() - began
    refitted = engines.gate(run, TONIGHT)
    # In the report before anything is said of it: the numbers show how far off it is.
    findings.cell({"way": "refitted", "ready_s": ready_s, "gate": refitted, **engines.times(run)})
    require_right({"rebuilt": rebuilt, "refitted": refitted})


def require_right(gates: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `RefitGateError` that says which engine is beyond the limits, and by how much."""
    limits = limits_of(PRECISION)
    wrong = [
        f"{way}: overlap {gate['overlap']:.4f}, at least {limits.overlap:g} expected, score error "
        f"{gate['score_error']:.3g}, at most {limits.score_error:g} allowed"
        for way, gate in gates.items()
        # So written that NaN is wrong too.
        if not (gate["overlap"] >= limits.overlap and gate["score_error"] <= limits.score_error)
    ]
    if wrong:
        raise RefitGateError(f"other answers than PyTorch's: {'; '.join(wrong)}")


class TensorRTEngines:
    """TensorRT on this machine's GPU, on the smallest catalogue."""

    def __init__(self, setting: Setting, flavour: Flavour) -> None:
        self.setting, self.flavour = setting, flavour
        self.items = setting.items[0]
        # The next night's rows: where they are folded they hold weights of hers.
        graph = sequence_file(setting, self.items, TONIGHT, True)
        self.tables = make_tables(setting, self.items, torch.float16, graph.folded_by)

    def build(self, seed: int, *, refittable: bool) -> EngineRun:
        """Return a loaded engine with the weights of a seed."""
        request = BuildRequest(
            onnx=self._graph(seed).path,
            spec=describe(self._graph(seed).path),
            profiles=profiles_of("sequence", manifest_of(self.setting, self.items), BUCKETS),
            refittable=refittable,
            timing_cache=self.setting.work / f"timing-refit-{self.flavour.name}",
        )
        built = build_engine(request, self.flavour, lambda *step: None)
        return EngineRun(built.plan, self.flavour)

    def refit(self, run: EngineRun, seed: int) -> None:
        """Write the weights of a seed into a refittable engine."""
        trt = self.flavour.module
        refitter = trt.Refitter(run.engine, run.logger)
        parser = trt.OnnxParserRefitter(refitter, run.logger)
        taken = parser.refit_from_file(str(self._graph(seed).path))
        if not taken or not refitter.refit_cuda_engine():
            raise EngineRunError(f"the engine does not take the weights: {run.logger.reason()}")

    def gate(self, run: EngineRun, seed: int) -> dict[str, Any]:
        """Compare the engine's answers with PyTorch's by the weights of a seed."""
        call = self._contestant(run).prepare(self.tables, PROBES)
        call.launch()
        rows, scores = call.outputs()
        return compare(self.setting, self.items, (rows.clone(), scores.clone()), seed)

    def times(self, run: EngineRun) -> dict[str, Any]:
        """Return the engine's latency by batch size."""
        found: dict[str, Any] = {}
        for batch in TIMED_BATCHES:
            call = self._contestant(run).prepare(self.tables, batch)
            times = measure(call, batch, self.setting.cell_s, self.setting.device)
            found[f"device_p50_ms_batch_{batch}"] = times.device_p50_ms
        return found

    def _graph(self, seed: int) -> SequenceFile:
        return sequence_file(self.setting, self.items, seed, True)

    def _contestant(self, run: EngineRun) -> TensorRT:
        graph = self._graph(TONIGHT)
        return TensorRT(self.setting, run, graph, lambda batch: 0 if batch == 1 else 1)
