"""`mmsr-bench engine`, without its flags: the runner alone, over a grid of sizes.

What it measures is the ceiling of a server: no socket, no queue, full batches only.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle, product
from math import inf
from pathlib import Path
from string import ascii_uppercase
from typing import Any, get_args

import numpy as np

from mmsr.bundle.repository import Repository
from mmsr.engine.bench.blocks import Block
from mmsr.engine.bench.compare import Ratio, compare_blocks
from mmsr.engine.bench.histograms import encode
from mmsr.engine.bench.histories import any_rows, popular_rows
from mmsr.engine.bench.latency import percentiles, quantile
from mmsr.engine.bench.machine import Environment, describe_environment
from mmsr.engine.bench.memory import copy_rate_gb_per_s
from mmsr.engine.bench.plan import BenchError
from mmsr.engine.bench.synthetic import Asked, bind_items
from mmsr.engine.config import RunnerName
from mmsr.engine.model import RowRequest, SequenceModel, open_model, split
from mmsr.engine.quantise import CODES, reads_codes

MAX_BATCH = 65_536
MAX_ITEMS = 50_000_000
DIFFERENT_BATCHES = 16  # taken in turn, so that no cache holds all that a batch reads
BLOCKS = 20
WARM_UP_SHARE = 0.1  # of the duration, before it, not counted
TURNS = 10  # of each bundle, where there are several
MOST_BUNDLES = 8
BATCH_METRICS = ("answers/s", "p50 ms")
STAGES = ("pad", "run", "split")

Tick = Callable[[float], None]  # told how many seconds have been measured
Progress = Callable[[str, float], AbstractContextManager[Tick]]  # name, seconds


@dataclass(frozen=True, kw_only=True)
class EngineBench:
    """What to measure: every combination of these."""

    repositories: Sequence[Path]
    labels: Sequence[str] = ("stable",)  # or ids; of each repository a bundle each
    batches: Sequence[int]
    lengths: Sequence[int | None] = (None,)  # None: the longest that the model reads
    ks: Sequence[int] = (20,)
    items: Sequence[int | None] = (None,)  # None: the bundle's own catalogue
    runner: RunnerName = "auto"  # as mmsr-serve chooses it
    duration_s: float  # of each combination
    threads: int
    seed: int

    def __post_init__(self) -> None:
        if self.runner not in get_args(RunnerName):
            raise BenchError(
                f"runner is {self.runner!r}; expected one of {', '.join(get_args(RunnerName))}"
            )
        count = len(self.repositories) * len(self.labels)
        if not 1 <= count <= MOST_BUNDLES:
            raise BenchError(f"{count} bundles; expected 1 to {MOST_BUNDLES}")
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

    side: str | None  # A, B, …; None where there is but one bundle
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
class BundleRatio:
    """One bundle's batches over those of A, in one combination."""

    side: str
    run: int  # its place in the report's runs
    ratios: list[Ratio]


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """All combinations of one `mmsr-bench engine`."""

    scenario: str = "engine"
    environment: Environment
    bundle_id: str  # of the first bundle
    threads: int
    duration_s: float
    copy_gb_per_s: float
    sides: dict[str, str]  # what A, B, … are; empty where there is but one bundle
    runs: list[BatchSummary]
    ratios: list[BundleRatio]
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
    """Measure every combination; an interrupt keeps what was measured so far.

    Several bundles are measured in turn, A B B A A B …: what a machine does slowly falls on all.
    """
    environment = describe_environment()
    folders = find_bundles(bench)
    copy_gb_per_s = copy_rate_gb_per_s()
    runs: list[BatchSummary] = []
    interrupted = False
    with opened(bench, folders) as sides:
        try:
            for point in _grid(bench, [side.model for side in sides]):
                runs += _measure_point(bench, sides, point, (copy_gb_per_s, progress))
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
            sides={side.name: side.what for side in sides if side.name is not None},
            runs=runs,
            ratios=bundle_ratios(runs, len(sides)),
            interrupted=interrupted,
        )


def find_bundles(bench: EngineBench) -> list[Path]:
    """Return what each label names in each repository."""
    repositories = map(Repository, bench.repositories)
    return [repository.find(label) for repository in repositories for label in bench.labels]


@dataclass
class Side:
    """One opened bundle."""

    name: str | None  # None: there is but one
    model: SequenceModel
    asked: Asked

    @property
    def what(self) -> str:
        """Return what is measured, in words."""
        model = self.model
        folder = model.bundle.folder.parent.parent.name
        return f"bundle {model.version} of {folder}, {model.precision}, {model.runner.name}"


@contextmanager
def opened(bench: EngineBench, folders: Sequence[Path]) -> Iterator[list[Side]]:
    """Open the bundles as mmsr-serve does; all of them are in memory at once."""
    with ExitStack() as stack:
        sides = []
        for letter, folder in zip(ascii_uppercase, folders, strict=False):
            model = open_model(folder, threads=bench.threads, runner=bench.runner)
            stack.callback(model.close)
            name = letter if len(folders) > 1 else None
            sides.append(Side(name, model, Asked(model=model, items=None)))
        yield sides


def _measure_point(
    bench: EngineBench, sides: Sequence[Side], point: Point, given: tuple[float, Progress]
) -> list[BatchSummary]:
    """Measure one combination of every bundle; in turns, where there are several."""
    copy_gb_per_s, progress = given
    for side in sides:
        if point.items != side.asked.items:
            side.asked = bind_items(side.model, point.items, bench.seed)
    requests = [make_batches(side.model, point, bench.seed) for side in sides]
    turns = TURNS if len(sides) > 1 else 1
    times: list[list[Any]] = [[] for _ in sides]
    with progress(str(point), bench.duration_s * len(sides)) as tick:
        for number, place in enumerate(turns_of(len(sides), turns)):
            before_s = number * bench.duration_s / turns
            times[place].append(
                time_batches(
                    sides[place].asked,
                    requests[place],
                    bench.duration_s / turns,
                    lambda passed_s, before_s=before_s: tick(before_s + passed_s),  # type: ignore[misc]
                )
            )
    return [
        _summary(side, point, np.concatenate(parts), copy_gb_per_s)
        for side, parts in zip(sides, times, strict=True)
    ]


def turns_of(sides: int, turns: int) -> list[int]:
    """Return whose turn it is: there and back again, A B C C B A …"""
    there = list(range(sides))
    return [side for turn in range(turns) for side in (there if turn % 2 == 0 else there[::-1])]


def bundle_ratios(runs: Sequence[BatchSummary], sides: int) -> list[BundleRatio]:
    """Set every bundle's batches beside those of the first one, combination by combination.

    The runs of one combination stand together, `sides` of them.
    """
    found = []
    for place, run in enumerate(runs):
        first = runs[place - place % sides]
        if first is not run:
            [compared] = compare_blocks({"": first.blocks}, {"": run.blocks}, inf)
            kept = [ratio for ratio in compared.ratios if ratio.metric in BATCH_METRICS]
            found.append(BundleRatio(side=run.side or "", run=place, ratios=kept))
    return found


def _grid(bench: EngineBench, models: Sequence[SequenceModel]) -> list[Point]:
    """Return every combination, checked before the first of them is measured."""
    catalogue = min(len(model.bundle.catalogue) for model in models)
    longest = min(model.max_length for model in models)
    points = []
    for items, length, k, batch in product(bench.items, bench.lengths, bench.ks, bench.batches):
        most = items or catalogue
        if not 1 <= k <= most:
            raise BenchError(f"k is {k}; expected 1 to {most}, the items of this bundle")
        length = longest if length is None else length
        if not 1 <= length <= longest:
            raise BenchError(f"length is {length}; this model reads 1 to {longest} items")
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


def _summary(side: Side, point: Point, times_R3: Any, copy_gb_per_s: float) -> BatchSummary:
    model = side.model
    total_R = times_R3.sum(axis=1)
    items = point.items or len(model.bundle.catalogue)
    scored_gb_per_s = (
        scored_table_bytes(model, point.items) / float(np.median(times_R3[:, 1])) / 1e9
    )
    return BatchSummary(
        side=side.name,
        bundle_id=model.version,
        precision=model.precision,
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
