"""`mmsr-bench engine`, without its flags: the runner alone, by batch size.

What it measures is the ceiling of a server: no socket, no queue, full batches only.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from mmsr.bundle.repository import Repository
from mmsr.engine.bench.histories import popular_rows
from mmsr.engine.bench.latency import percentiles
from mmsr.engine.bench.machine import Environment, describe_environment
from mmsr.engine.bench.plan import BenchError
from mmsr.engine.model import RowRequest, SequenceModel, open_model, split

MAX_BATCH = 65_536
DIFFERENT_BATCHES = 16  # taken in turn, so that no cache holds all that a batch reads
WARM_UP_SHARE = 0.1  # of the duration, before it, not counted
STAGES = ("pad", "run", "split")

Tick = Callable[[float], None]  # told how many seconds have been measured
Progress = Callable[[str, float], AbstractContextManager[Tick]]  # name, seconds


@dataclass(frozen=True, kw_only=True)
class EngineBench:
    """What to measure."""

    repository: Path
    label: str
    batches: Sequence[int]
    length: int | None  # None: the longest that the model reads
    k: int
    duration_s: float  # of each batch size
    threads: int
    seed: int

    def __post_init__(self) -> None:
        if not self.batches or max(self.batches) > MAX_BATCH:
            raise BenchError(f"batch {list(self.batches)}; expected sizes from 1 to {MAX_BATCH}")
        if not 0.05 <= self.duration_s <= 24 * 3600:
            raise BenchError(f"duration-s is {self.duration_s:g}; expected 0.05 to 86400")
        if self.threads < 1:
            raise BenchError(f"threads is {self.threads}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class BatchSummary:
    """One batch size. Times are of the whole batch, from lists of rows to lists of rows."""

    batch: int
    batches: int
    measured_s: float
    batch_ms: dict[str, float | None]
    requests_per_s: float
    share: dict[str, float]  # of the time: "pad" the inputs, "run" the graph, "split" the answer


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """All batch sizes of one `mmsr-bench engine`."""

    environment: Environment
    bundle_id: str
    runner: str
    items: int
    length: int
    k: int
    threads: int
    duration_s: float
    runs: list[BatchSummary]
    interrupted: bool


def measure_engine(bench: EngineBench, progress: Progress) -> EngineReport:
    """Measure every batch size; an interrupt keeps what was measured so far."""
    environment = describe_environment()
    folder = Repository(bench.repository).resolve(bench.label)
    model = open_model(folder, threads=bench.threads)
    try:
        length = _length(bench, model)
        k = _k(bench, model)
        runs: list[BatchSummary] = []
        interrupted = False
        try:
            for batch in bench.batches:
                requests = make_batches(model, batch, length, k, bench.seed)
                with progress(f"batch {batch}", bench.duration_s) as tick:
                    runs.append(time_batches(model, requests, bench.duration_s, tick))
        except KeyboardInterrupt:
            interrupted = True
        if not runs:
            raise BenchError("interrupted before anything was measured")
        return EngineReport(
            environment=environment,
            bundle_id=folder.name,
            runner=model.runner.name,
            items=len(model.bundle.catalogue),
            length=length,
            k=k,
            threads=bench.threads,
            duration_s=bench.duration_s,
            runs=runs,
            interrupted=interrupted,
        )
    finally:
        model.close()


def make_batches(
    model: SequenceModel, batch: int, length: int, k: int, seed: int
) -> list[list[RowRequest]]:
    """Return different batches of histories, drawn by popularity and all of one length."""
    seen = model.bundle.manifest.exclude_seen
    rows = popular_rows(model.bundle.catalogue, (DIFFERENT_BATCHES, batch, length), seed).tolist()
    return [[RowRequest(h, h if seen else [], k) for h in histories] for histories in rows]


def time_batches(
    model: SequenceModel, requests: Sequence[list[RowRequest]], duration_s: float, tick: Tick
) -> BatchSummary:
    """Compute the batches in turn for `duration_s`, after a warm-up of a tenth of it."""
    turns = cycle(requests)
    for _ in _until(time.perf_counter() + duration_s * WARM_UP_SHARE):
        _time_one(model, next(turns))
    start_s = time.perf_counter()
    times = []
    for now_s in _until(start_s + duration_s):
        times.append(_time_one(model, next(turns)))
        tick(now_s - start_s)
    measured_s = time.perf_counter() - start_s
    times_R3 = np.array(times)
    total_R = times_R3.sum(axis=1)
    batch = len(requests[0])
    return BatchSummary(
        batch=batch,
        batches=len(times),
        measured_s=measured_s,
        batch_ms=percentiles(total_R * 1e3),
        requests_per_s=batch * len(times) / float(total_R.sum()),
        share=dict(zip(STAGES, (times_R3.sum(axis=0) / total_R.sum()).tolist(), strict=True)),
    )


def _until(end_s: float) -> Iterator[float]:
    """Yield the time at least once, and until `end_s`."""
    yield time.perf_counter()
    while (now_s := time.perf_counter()) < end_s:
        yield now_s


def _time_one(model: SequenceModel, requests: list[RowRequest]) -> tuple[float, float, float]:
    """Do what `SequenceModel.recommend` does; return the seconds of each of `STAGES`."""
    start_s = time.perf_counter()
    inputs = model.inputs(requests, max(request.k for request in requests))
    padded_s = time.perf_counter()
    outputs = model.runner.run(inputs)
    run_s = time.perf_counter()
    split(requests, model.scored.rows(outputs["rows"]), outputs["scores"])
    return padded_s - start_s, run_s - padded_s, time.perf_counter() - run_s


def _length(bench: EngineBench, model: SequenceModel) -> int:
    length = model.max_length if bench.length is None else bench.length
    if not 1 <= length <= model.max_length:
        raise BenchError(f"length is {length}; this model reads 1 to {model.max_length} items")
    return length


def _k(bench: EngineBench, model: SequenceModel) -> int:
    items = len(model.bundle.catalogue)
    if not 1 <= bench.k <= items:
        raise BenchError(f"k is {bench.k}; expected 1 to {items}, the items of this bundle")
    return bench.k
