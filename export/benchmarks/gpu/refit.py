"""Section "refit": the next night's weights into last night's engine, or an engine built anew.

Seconds until ready and latency afterwards of both; after either the answers are compared with
PyTorch's, since a refit can keep stale weights and say nothing.
"""

import time
from typing import Any

import torch

from benchmarks.gpu.contestants import TensorRT
from benchmarks.gpu.engine_run import EngineRun, EngineRunError
from benchmarks.gpu.graphs import manifest_of, sequence_path
from benchmarks.gpu.setting import Findings, SectionSkippedError, Setting
from benchmarks.gpu.shop import PROBES, compare, make_tables
from benchmarks.gpu.timing import measure
from mmsr.export.onnx_file import describe
from mmsr.export.tensorrt.builder import BuildRequest, build_engine
from mmsr.export.tensorrt.flavour import Flavour, find_flavour, find_gpu
from mmsr.export.tensorrt.profiles import Buckets, profiles_of

BUCKETS = Buckets(sequence=(1, PROBES))
TIMED_BATCHES = (1, PROBES)


def refit_or_rebuild(setting: Setting, findings: Findings) -> None:
    """Measure both ways from the weights of seed 0 to those of seed 1."""
    gpu = find_gpu() if setting.cuda else None
    if gpu is None:
        raise SectionSkippedError("refittable engines are built on a machine with a GPU only")
    flavour = find_flavour(None, gpu)
    findings.put("flavour", f"{flavour.name} {flavour.version}")
    cache = setting.work / f"timing-refit-{flavour.name}"
    for attempt in ("first build, cold", "rebuild, with timing cache"):
        began = time.perf_counter()
        plan = build_engine(_request(setting, 1, False, cache), flavour, lambda *step: None).plan
        run = EngineRun(plan, flavour)
        findings.cell({"way": attempt, "ready_s": time.perf_counter() - began})
    findings.cell({"way": "rebuilt", **_checked(setting, run)})
    began = time.perf_counter()
    plan = build_engine(_request(setting, 0, True, cache), flavour, lambda *step: None).plan
    run = EngineRun(plan, flavour)
    findings.cell({"way": "refittable, built once", "ready_s": time.perf_counter() - began})
    began = time.perf_counter()
    _refit(setting, run, flavour)
    ready_s = time.perf_counter() - began
    findings.cell({"way": "refitted", "ready_s": ready_s, **_checked(setting, run)})


def _request(setting: Setting, seed: int, refittable: bool, cache: Any) -> BuildRequest:
    path = sequence_path(setting, seed, True)
    manifest = manifest_of(setting, setting.items[0])
    return BuildRequest(
        onnx=path,
        spec=describe(path),
        profiles=profiles_of("sequence", manifest, BUCKETS),
        refittable=refittable,
        timing_cache=cache,
    )


def _refit(setting: Setting, run: EngineRun, flavour: Flavour) -> None:
    trt = flavour.module
    refitter = trt.Refitter(run.engine, run.logger)
    parser = trt.OnnxParserRefitter(refitter, run.logger)
    taken = parser.refit_from_file(str(sequence_path(setting, 1, True)))
    if not taken or not refitter.refit_cuda_engine():
        raise EngineRunError(f"the engine does not take the weights: {run.logger.reason()}")


def _checked(setting: Setting, run: EngineRun) -> dict[str, Any]:
    contestant = TensorRT(setting, run, lambda batch: 0 if batch == 1 else 1)
    tables = make_tables(setting, setting.items[0], torch.float16)
    call = contestant.prepare(tables, PROBES)
    call.launch()
    rows, scores = call.outputs()
    gate = compare(setting, setting.items[0], (rows.clone(), scores.clone()), seed=1)
    found: dict[str, Any] = {"gate": gate}
    for batch in TIMED_BATCHES:
        times = measure(contestant.prepare(tables, batch), batch, setting.cell_s, setting.device)
        found[f"device_p50_ms_batch_{batch}"] = times.device_p50_ms
    return found
