"""What `Similar` takes at a million items, and how long it keeps a batch waiting.

    python engine/benchmarks/similar.py --json engine/results/similar.json

A random table in memory, the real thread, batcher and `SimilarItems`; the model answers at once, so
that a job's latency is its wait. In turns: jobs alone, and jobs while similar items are asked for
without a pause.
"""

# N items, D width

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from mmsr.bundle.catalogue import Catalogue
from mmsr.bundle.terminal import run as run_app
from mmsr.engine.asides import Asides
from mmsr.engine.batch_times import BatchTimes
from mmsr.engine.batcher import Batcher
from mmsr.engine.bench.machine import describe_environment
from mmsr.engine.catalogue.named_filters import NamedFilters
from mmsr.engine.catalogue.placement import Placement
from mmsr.engine.compute import ComputeThread, Done
from mmsr.engine.config import BatchConfig, Limits
from mmsr.engine.filters import RowFilters
from mmsr.engine.items import ItemIndex
from mmsr.engine.query import SimilarQuery
from mmsr.engine.rows import RowAnswer, RowRequest
from mmsr.engine.service import ModelFacts, Service
from mmsr.engine.similar import SimilarItems, Vectors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
K = 20
PAUSE_S = 0.002  # between two jobs: not a busy loop


@dataclass(frozen=True, kw_only=True)
class Report:
    """Quantiles are p50, p90 and p99."""

    items: int
    width: int
    computed_ms: list[float]  # of one call
    filtered_ms: list[float]  # of one call with a category that a tenth of the items has
    alone_ms: list[float]  # a job's latency
    beside_ms: list[float]  # while similar items are asked for
    pieces_cpu_ms: list[float]  # of what a batch waits for, whatever else the machine does
    longest_piece_cpu_ms: float
    environment: dict[str, Any]


class Watched(ComputeThread):
    """Notes the CPU time of every call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.cpu_ms: list[float] = []

    def submit(self, call: Callable[[], object], done: Done) -> None:
        """Queue `call`, timed."""

        def timed() -> object:
            began = time.thread_time()
            result = call()
            self.cpu_ms.append(1e3 * (time.thread_time() - began))
            return result

        super().submit(timed, done)


def at_once(jobs: Sequence[RowRequest]) -> list[RowAnswer]:
    """Answer nothing."""
    return [RowAnswer([], []) for _ in jobs]


def catalogue_of(items: int) -> Catalogue:
    """Return items of which every tenth has a category."""
    return Catalogue(
        item_ids=[f"item-{n}" for n in range(items)],
        titles=[None] * items,
        categories=[["tenth"] if n % 10 == 0 else [] for n in range(items)],
        available=np.ones(items, np.bool_),
        popularity=np.zeros(items, np.int64),
    )


class Bench:
    """The parts, put together as a deployment does."""

    def __init__(self, items: int, width: int) -> None:
        table_CD = np.random.default_rng(0).standard_normal((items + 1, width), np.float32)
        self._compute = Watched(asyncio.get_running_loop())
        self._compute.start()
        self._batcher = Batcher[RowRequest, RowAnswer](
            at_once, self._compute, BatchConfig(), clock=time.monotonic, times=BatchTimes()
        )
        catalogue = catalogue_of(items)
        filters, placement = RowFilters(catalogue, items + 1), Placement()
        service = Service(
            ItemIndex(catalogue),
            self._batcher,
            ModelFacts("0" * 16, 50, True),
            Limits(),
            NamedFilters(filters, placement),
        )
        asides = Asides(self._compute, clock=time.monotonic)
        vectors = Vectors(table_CD, None, filters, placement)
        self._similar = SimilarItems(service, asides, vectors, clock=time.monotonic)

    def pieces(self) -> list[float]:
        """Return the CPU milliseconds of the calls since the last time, and forget them."""
        found, self._compute.cpu_ms = self._compute.cpu_ms, []
        return found

    async def jobs(self, turn_s: float) -> list[float]:
        """Return the milliseconds of jobs, one after the other."""
        ends, times = time.perf_counter() + turn_s, list[float]()
        while time.perf_counter() < ends:
            await asyncio.sleep(PAUSE_S)
            began = time.perf_counter()
            await self._batcher.submit(RowRequest([1], [], 1))
            times.append(1e3 * (time.perf_counter() - began))
        return times

    async def similar_pieces(self, turn_s: float) -> list[float]:
        """Return the CPU milliseconds of the pieces of calls without a job between."""
        await self.similar(turn_s)
        return self.pieces()

    async def similar(self, turn_s: float, **filters: Any) -> list[float]:
        """Return the milliseconds that each call computed."""
        ends, times = time.perf_counter() + turn_s, list[float]()
        while time.perf_counter() < ends:
            reply = await self._similar.nearest(SimilarQuery(f"item-{len(times)}", K, **filters))
            times.append(reply.compute_us / 1e3)
        return times


async def measure_all(items: int, width: int, rounds: int, turn_s: float) -> Report:
    """Take turns."""
    bench = Bench(items, width)
    alone: list[float] = []
    beside: list[float] = []
    computed: list[float] = []
    filtered: list[float] = []
    pieces: list[float] = []
    for _ in range(rounds):
        alone += await bench.jobs(turn_s)
        bench.pieces()
        pieces += await bench.similar_pieces(turn_s)
        some, waited = await asyncio.gather(bench.similar(turn_s), bench.jobs(turn_s))
        computed += some
        beside += waited
        filtered += await bench.similar(turn_s, include_categories=["tenth"])
    return Report(
        items=items,
        width=width,
        computed_ms=quantiles(computed),
        filtered_ms=quantiles(filtered),
        alone_ms=quantiles(alone),
        beside_ms=quantiles(beside),
        pieces_cpu_ms=quantiles(pieces),
        longest_piece_cpu_ms=round(max(pieces), 3),
        environment=describe_environment().to_json(),
    )


def quantiles(times_ms: list[float]) -> list[float]:
    """Return p50, p90 and p99."""
    return [round(float(value), 3) for value in np.quantile(times_ms, [0.5, 0.9, 0.99])]


@app.command()
def measure(
    items: Annotated[int, typer.Option(help="Items in the catalogue.")] = 1_000_000,
    width: Annotated[int, typer.Option(help="Width of the vectors.")] = 128,
    rounds: Annotated[int, typer.Option(help="Rounds of three turns.")] = 5,
    turn_s: Annotated[float, typer.Option(help="Length of a turn.")] = 3.0,
    json_to: Annotated[Path | None, typer.Option("--json", help="Report.")] = None,
) -> None:
    """Measure and print the report."""
    report = asdict(asyncio.run(measure_all(items, width, rounds, turn_s)))
    typer.echo(json.dumps({name: report[name] for name in report if name != "environment"}))
    if json_to is not None:
        json_to.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    run_app(app)
