"""`mmsr-bench engine`, without its flags: the runner alone, over a grid of sizes.

What it measures is the ceiling of a server: no socket, no queue, full batches only.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from mmsr.bundle.repository import Repository
from mmsr.engine.bench.blocks import Block
from mmsr.engine.bench.histograms import encode
from mmsr.engine.bench.histories import any_rows, popular_rows
from mmsr.engine.bench.latency import percentiles, quantile
from mmsr.engine.bench.machine import Environment, describe_environment
from mmsr.engine.bench.memory import copy_rate_gb_per_s
from mmsr.engine.bench.plan import BenchError
from mmsr.engine.bench.synthetic import Asked, bind_items
from mmsr.engine.model import RowRequest, SequenceModel, split
from mmsr.engine.opened import open_bundle
from mmsr.engine.precision import precision_of
from mmsr.engine.quantise import CODES, reads_codes
from mmsr.engine.runners.onnx import CPU, open_onnx

MAX_BATCH = 65_536
MAX_ITEMS = 50_000_000
DIFFERENT_BATCHES = 16  # taken in turn, so that no cache holds all that a batch reads
BLOCKS = 20
WARM_UP_SHARE = 0.1  # of the duration, before it, not counted
STAGES = ("pad", "run", "split")

Tick = Callable[[float], None]  # told how many seconds have been measured
Progress = Callable[[str, float], AbstractContextManager[Tick]]  # name, seconds


@dataclass(frozen=True, kw_only=True)
class EngineBench:
    """What to measure: every combination of these."""

    repository: Path
    labels: Sequence[str]  # a bundle each; precisions are compared so
    batches: Sequence[int]
    lengths: Sequence[int | None] = (None,)  # None: the longest that the model reads
    ks: Sequence[int] = (20,)
    items: Sequence[int | None] = (None,)  # None: the bundle's own catalogue
    providers: Sequence[str] = CPU  # of ONNX Runtime, the first that is there computes
    duration_s: float  # of each combination
    threads: int
    seed: int

    def __post_init__(self) -> None:
        if not self.batches or max(self.batches) > MAX_BATCH:
            raise BenchError(f"batch {list(self.batches)}; expected sizes from 1 to {MAX_BATCH}")
        if any(items is not None and not 1 <= items <= MAX_ITEMS for items in self.items):
            raise BenchError(f"items {list(self.items)}; expected sizes from 1 to {MAX_ITEMS}")
        if not 0.05 <= self.duration_s <= 24 * 3600:
            raise BenchError(f"duration-s is {self.duration_s:g}; expected 0.05 to 86400")
        if self.threads < 1:
            raise BenchError(f"threads is {self.threads}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class BatchSummary:
    """One batch size. Times are of the whole batch, from lists of rows to lists of rows."""

    bundle_id: str
    precision: str
    runner: str
    items: int
    length: int
    k: int
    batch: int
    batches: int
    measured_s: float
    batch_ms: dict[str, float | None]
    requests_per_s: float
    share: dict[str, float]  # of the time: "pad" the inputs, "run" the graph, "split" the answer
    # Reading the output table once a batch, at the rate at which this batch took: a share of the
    # memory's measured rate near 1 says that memory is the limit, far below that compute is.
    scored_gb_per_s: float
    share_of_memory: float
    blocks: list[Block]  # twentieths of the time, for intervals: a "request" is a batch


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """All combinations of one `mmsr-bench engine`."""

    scenario: str = "engine"
    environment: Environment
    bundle_id: str  # of the first label
    threads: int
    duration_s: float
    copy_gb_per_s: float
    runs: list[BatchSummary]
    interrupted: bool


@dataclass(frozen=True, kw_only=True)
class Point:
    """One combination."""

    batch: int
    length: int
    k: int
    items: int | None

    def __str__(self) -> str:
        items = "" if self.items is None else f", {self.items:,} items"
        return f"batch {self.batch}, length {self.length}, k {self.k}{items}"


def measure_engine(bench: EngineBench, progress: Progress) -> EngineReport:
    """Measure every combination; an interrupt keeps what was measured so far."""
    environment = describe_environment()
    _require_providers(bench.providers)
    folders = [Repository(bench.repository).resolve(label) for label in bench.labels]
    copy_gb_per_s = copy_rate_gb_per_s()
    runs: list[BatchSummary] = []
    interrupted = False
    try:
        for folder in folders:
            _measure_bundle(bench, folder, copy_gb_per_s, progress, runs)
    except KeyboardInterrupt:
        interrupted = True
    if not runs:
        raise BenchError("interrupted before anything was measured")
    return EngineReport(
        environment=environment,
        bundle_id=folders[0].name,
        threads=bench.threads,
        duration_s=bench.duration_s,
        copy_gb_per_s=copy_gb_per_s,
        runs=runs,
        interrupted=interrupted,
    )


def _require_providers(providers: Sequence[str]) -> None:
    there = ort.get_available_providers()
    missing = [provider for provider in providers if provider not in there]
    if missing:
        raise BenchError(
            f"provider {missing[0]!r} is not in this ONNX Runtime; it has {', '.join(there)}"
        )


def open_runner(folder: Path, threads: int, providers: Sequence[str] = CPU) -> SequenceModel:
    """Open a bundle with ONNX Runtime's `providers`, as `open_model` does for the CPU."""
    bundle = open_bundle(folder)
    runner = open_onnx(
        bundle.sequence_path, bundle.sequence_spec, threads=threads, providers=providers
    )
    model = SequenceModel(bundle, runner, threads=threads)
    model.bind()
    return model


def _measure_bundle(
    bench: EngineBench,
    folder: Path,
    copy_gb_per_s: float,
    progress: Progress,
    runs: list[BatchSummary],
) -> None:
    """Measure one bundle and append to `runs`, so that an interrupt loses nothing."""
    model = open_runner(folder, bench.threads, bench.providers)
    try:
        grid = _grid(bench, model)
        asked = bind_items(model, None, bench.seed)
        for point in grid:
            if point.items != asked.items:
                asked = bind_items(model, point.items, bench.seed)
            requests = make_batches(model, point, bench.seed)
            with progress(str(point), bench.duration_s) as tick:
                times_R3 = time_batches(asked, requests, bench.duration_s, tick)
            runs.append(_summary(model, point, times_R3, copy_gb_per_s))
    finally:
        model.close()


def _grid(bench: EngineBench, model: SequenceModel) -> list[Point]:
    """Return every combination, checked before the first of them is measured."""
    catalogue = len(model.bundle.catalogue)
    points = []
    for items, length, k, batch in product(bench.items, bench.lengths, bench.ks, bench.batches):
        most = items or catalogue
        if not 1 <= k <= most:
            raise BenchError(f"k is {k}; expected 1 to {most}, the items of this bundle")
        length = model.max_length if length is None else length
        if not 1 <= length <= model.max_length:
            raise BenchError(f"length is {length}; this model reads 1 to {model.max_length} items")
        points.append(Point(batch=batch, length=length, k=k, items=items))
    return points


def make_batches(model: SequenceModel, point: Point, seed: int) -> list[list[RowRequest]]:
    """Return different batches of histories, all of one length.

    Drawn by popularity; of a synthetic catalogue, evenly.
    """
    shape = (DIFFERENT_BATCHES, point.batch, point.length)
    if point.items is None:
        rows = popular_rows(model.bundle.catalogue, shape, seed).tolist()
    else:
        rows = any_rows(point.items, shape, seed).tolist()
    seen = model.bundle.manifest.exclude_seen
    return [[RowRequest(h, h if seen else [], point.k) for h in histories] for histories in rows]


def time_batches(
    asked: Asked, requests: Sequence[list[RowRequest]], duration_s: float, tick: Tick
) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Compute the batches in turn for `duration_s`, after a warm-up of a tenth of it.

    Returns the seconds of each of `STAGES` of each batch [R, 3].
    """
    turns = cycle(requests)
    for _ in _until(time.perf_counter() + duration_s * WARM_UP_SHARE):
        _time_one(asked, next(turns))
    start_s = time.perf_counter()
    times = []
    for now_s in _until(start_s + duration_s):
        times.append(_time_one(asked, next(turns)))
        tick(now_s - start_s)
    return np.array(times)


def _summary(
    model: SequenceModel, point: Point, times_R3: Any, copy_gb_per_s: float
) -> BatchSummary:
    total_R = times_R3.sum(axis=1)
    items = point.items or len(model.bundle.catalogue)
    scored_gb_per_s = (
        scored_table_bytes(model, point.items) / float(np.median(times_R3[:, 1])) / 1e9
    )
    return BatchSummary(
        bundle_id=model.version,
        precision=precision_of(model.bundle.manifest),
        runner=model.runner.name,
        items=items,
        length=point.length,
        k=point.k,
        batch=point.batch,
        batches=len(times_R3),
        measured_s=float(total_R.sum()),
        batch_ms=percentiles(total_R * 1e3),
        requests_per_s=point.batch * len(times_R3) / float(total_R.sum()),
        share=dict(zip(STAGES, (times_R3.sum(axis=0) / total_R.sum()).tolist(), strict=True)),
        scored_gb_per_s=scored_gb_per_s,
        share_of_memory=scored_gb_per_s / copy_gb_per_s,
        blocks=batch_blocks(total_R),
    )


def batch_blocks(total_s_R: Any) -> list[Block]:
    """Cut batches, one after the other, into blocks of about equal time."""
    ends_R = np.cumsum(total_s_R)
    number_R = np.minimum(BLOCKS - 1, (ends_R / ends_R[-1] * BLOCKS).astype(np.int64))
    blocks = []
    for number in np.unique(number_R).tolist():
        took_ms = total_s_R[number_R == number] * 1e3
        blocks.append(
            Block(
                start_s=float(ends_R[number_R == number][0] - took_ms[0] / 1e3),
                seconds=float(took_ms.sum() / 1e3),
                requests=len(took_ms),
                answered=len(took_ms),
                good=len(took_ms),
                refused=0,
                p50_ms=quantile(took_ms, 0.5),
                p99_ms=quantile(took_ms, 0.99),
                histogram=encode(took_ms),
            )
        )
    return blocks


def scored_table_bytes(model: SequenceModel, items: int | None) -> int:
    """Return the bytes that a batch reads to score each of `items` once; None: the bundle's."""
    scored = CODES if reads_codes(model.runner) else "item_outputs"
    dtype = np.dtype(next(t.dtype for t in model.runner.spec.inputs if t.name == scored))
    width = model.bundle.manifest.tables.output_width
    return (items or len(model.bundle.catalogue)) * width * dtype.itemsize


def _until(end_s: float) -> Iterator[float]:
    """Yield the time at least once, and until `end_s`."""
    yield time.perf_counter()
    while (now_s := time.perf_counter()) < end_s:
        yield now_s


def _time_one(asked: Asked, requests: list[RowRequest]) -> tuple[float, float, float]:
    """Do what `SequenceModel.recommend` does; return the seconds of each of `STAGES`."""
    start_s = time.perf_counter()
    inputs = asked.inputs(requests)
    padded_s = time.perf_counter()
    outputs = asked.model.runner.run(inputs)
    run_s = time.perf_counter()
    split(requests, asked.rows(outputs["rows"]), outputs["scores"])
    return padded_s - start_s, run_s - padded_s, time.perf_counter() - run_s
