"""Sections of the latency table: build if need be, gate, then time over batches and catalogues."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.contestants import Contestant, OnnxRuntime, TensorRT, Torch
from benchmarks.gpu.engine_run import EngineRun
from benchmarks.gpu.graphs import manifest_of, sequence_file
from benchmarks.gpu.setting import Findings, Setting
from benchmarks.gpu.shop import PROBES, Tables, compare, make_tables, room_for
from benchmarks.gpu.timing import measure
from mmsr.export.onnx_file import describe
from mmsr.export.tensorrt.builder import BuildRequest, build_engine
from mmsr.export.tensorrt.flavour import Flavour, Gpu, find_flavour, find_gpu
from mmsr.export.tensorrt.profiles import Buckets, profiles_of

LEAST_LEFT_S = 5.0  # of a section's time, to begin another cell
Open = Callable[[int], Contestant]  # for a number of items


def torch_latency(setting: Setting, findings: Findings, how: str) -> None:
    """Time PyTorch eager, compiled or graphed."""
    contestant = Torch(setting, how)
    _table(setting, findings, lambda items: contestant)


def onnx_latency(setting: Setting, findings: Findings, graphed: bool) -> None:
    """Time ONNX Runtime: fp16 and IO binding on a GPU, fp32 on a CPU."""

    def open_graph(items: int) -> Contestant:
        graph = sequence_file(setting, items, 0, setting.cuda)
        contestant = OnnxRuntime(setting, graph, graphed)
        findings.put("provider", contestant.ran_by)
        return contestant

    _table(setting, findings, open_graph)


def tensorrt_latency(setting: Setting, findings: Findings, flavour_name: str) -> None:
    """Build an engine a catalogue size and time it; without a GPU only build it."""
    gpu = find_gpu() if setting.cuda else None
    flavour = find_flavour(flavour_name, gpu)
    findings.put("flavour", f"{flavour.name} {flavour.version}")
    findings.put("builds", [])

    def open_engine(items: int) -> Contestant:
        plan, buckets = _build(setting, findings, items, (flavour, gpu))
        return TensorRT(
            setting,
            EngineRun(plan, flavour),
            sequence_file(setting, items, 0, True),
            lambda batch: next(i for i, size in enumerate(buckets) if batch <= size),
        )

    if setting.cuda:
        _table(setting, findings, open_engine)
        return
    for items in setting.items:
        _build(setting, findings, items, (flavour, None))
    findings.note("no GPU: the engines were built, and not run")


def _build(
    setting: Setting, findings: Findings, items: int, what: tuple[Flavour, Gpu | None]
) -> tuple[bytes, tuple[int, ...]]:
    flavour, gpu = what
    graph = sequence_file(setting, items, 0, True)
    # As a bundle's engines are built: the gate's batch has no profile of its own, unless none is
    # large enough.
    sizes = setting.batches
    buckets = Buckets(sequence=sizes if sizes[-1] >= PROBES else (*sizes, PROBES))
    request = BuildRequest(
        onnx=graph.path,
        spec=describe(graph.path),
        profiles=profiles_of("sequence", manifest_of(setting, items), buckets),
        timing_cache=setting.work / f"timing-{flavour.folder_name(gpu)}",
    )
    built = build_engine(request, flavour, lambda phase, done, steps: None)
    report = {
        "items": items,
        "form": graph.form,
        "seconds": built.seconds,
        "bytes": len(built.plan),
    }
    findings.put("builds", [*findings.values["builds"], report])
    return built.plan, buckets.sequence


def _table(setting: Setting, findings: Findings, open_for: Open) -> None:
    for items in setting.items:
        if setting.time_left() < LEAST_LEFT_S:
            findings.note(f"{items:,} items and more: the section's time was up")
            return
        contestant = open_for(items)
        problem = room_for(setting, items, PROBES, contestant.dtype.itemsize)
        if problem:
            findings.note(f"{items:,} items: {problem}")
            continue
        tables = make_tables(setting, items, contestant.dtype, contestant.folded_by)
        gate = _gate(setting, contestant, tables)
        findings.cell({"items": items, "form": contestant.form, "gate": gate})
        for batch in setting.batches:
            _cell(setting, findings, contestant, (tables, batch))
        del tables
        if setting.cuda:
            torch.cuda.empty_cache()


def _cell(
    setting: Setting, findings: Findings, contestant: Contestant, what: tuple[Tables, int]
) -> None:
    tables, batch = what
    problem = room_for(setting, tables.items, batch, 0)  # the tables are there
    if problem is None and setting.time_left() < LEAST_LEFT_S:
        problem = "the section's time was up"
    if problem:
        findings.note(f"{tables.items:,} items, batch {batch}: {problem}")
        return
    call = contestant.prepare(tables, batch)
    times = measure(call, batch, setting.cell_s, setting.device)
    findings.cell({"items": tables.items, "batch": batch, **times.to_json()})


def _gate(setting: Setting, contestant: Contestant, tables: Tables) -> dict[str, Any]:
    call = contestant.prepare(tables, PROBES)
    call.launch()
    rows, scores = call.outputs()
    return compare(setting, tables.items, (rows.clone(), scores.clone()))
