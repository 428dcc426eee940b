"""From a bundle's folder to a service that has been proven. Knows nothing of gRPC."""

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from mmsr.engine.asides import Asides
from mmsr.engine.batch_times import BatchTimes
from mmsr.engine.batcher import Batcher
from mmsr.engine.compute import ComputeThread
from mmsr.engine.config import ServeConfig
from mmsr.engine.explaining import ExplainItems
from mmsr.engine.items import ItemIndex
from mmsr.engine.model import RowAnswer, RowRequest, SequenceModel
from mmsr.engine.pace import Rest, no_rest
from mmsr.engine.popular import history_length, with_popular
from mmsr.engine.probe import ProbeReport, describe
from mmsr.engine.proven import open_proven
from mmsr.engine.service import ModelFacts, Service
from mmsr.engine.similar import SimilarItems, Vectors

log = logging.getLogger(__name__)

WARM_UP_ROUNDS = 2  # the first one touches memory for the first time; the shorter one counts
BRIEF_USERS = 32  # of the probe set, where a process of its own has compared all of them


@dataclass(frozen=True, kw_only=True, eq=False)
class Deployment:
    """One bundle in use."""

    model: SequenceModel
    batcher: Batcher[RowRequest, RowAnswer]
    service: Service
    asides: Asides
    similar: SimilarItems
    explaining: ExplainItems
    times: BatchTimes = field(default_factory=BatchTimes)  # the batcher's
    loaded_at: str = field(default_factory=lambda: utc_now())  # ISO 8601, UTC
    lease: ExitStack = field(default_factory=ExitStack)  # keeps the bundle from being pruned

    async def drain(self) -> None:
        """Refuse what is new; return when all else is answered."""
        await self.asides.drain()
        await self.batcher.drain()

    def close(self) -> None:
        """Free what computes, and let the bundle be pruned; nothing uses it any more."""
        self.model.close()
        self.lease.close()


class Carrier(Protocol):
    """Brings along what a bundle does not hold: the changes of a catalogue that lives.

    For each deployment, at the start of the server too, in this order: `carry`, `complete`, and
    later `leave`. One deployment may answer under several labels; it is carried over once.
    """

    async def carry(self, new: Deployment) -> None:
        """Bring every change until now into `new`, which is proven and does not answer yet.

        May take long and must not compute on the event loop. What it raises ends the load: the old
        deployment goes on, and `leave` is called for the new one.
        """

    def complete(self, new: Deployment) -> None:
        """Bring what has changed since `carry` into `new`; the next request is answered by it.

        On the event loop's thread, so no request and no write comes between. Changes to come go
        into it too.
        """

    def leave(self, old: Deployment) -> None:
        """Change `old` no more: no new request meets it, though its last ones may still run."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A bundle that was proven and warmed up in some thread."""

    model: SequenceModel
    items: ItemIndex
    times: BatchTimes


async def deploy(
    folder: Path, config: ServeConfig, compute: ComputeThread, clock: Callable[[], float]
) -> Deployment:
    """Verify, load, prove and warm up a bundle in `compute`, as fast as it goes.

    `BundleError`: something in it is wrong. `ProbeFailed`: it does not answer like PyTorch.
    """
    opened = await compute.run(lambda: open_whole(folder, config, clock))
    return assembled(opened, config, compute, clock)


def open_whole(folder: Path, config: ServeConfig, clock: Callable[[], float]) -> Opened:
    """Verify, load, prove and warm up; blocks."""
    started, server = clock(), config.server
    model, report = open_proven(folder, threads=server.threads, runner=server.runner)
    log.info("verified bundle %s in %.1f s", model.version, clock() - started)
    return _warmed(model, report, config, clock)


def open_beside(
    folder: Path,
    config: ServeConfig,
    clock: Callable[[], float],
    before: BatchTimes | None,
    rest: Rest,
) -> Opened:
    """Load a bundle that `Proof` has proven, while others are answered; blocks.

    Measured beside requests a batch seems slower than it is: where `before`, the times of the
    deployment that answers now, are shorter, they hold.
    """
    server = config.server
    model, report = open_proven(
        folder,
        threads=server.threads,
        runner=server.runner,
        users=BRIEF_USERS,
        verified=True,
        rest=rest,
    )
    with ExitStack() as failing:
        failing.callback(model.close)
        rest()
        opened = _warmed(model, report, config, clock, rest)
        failing.pop_all()
    if before is not None:
        opened.times.lower(before)
    return opened


def _warmed(
    model: SequenceModel,
    report: ProbeReport,
    config: ServeConfig,
    clock: Callable[[], float],
    rest: Rest = no_rest,
) -> Opened:
    log.info("probed: %s", describe(report))
    items = ItemIndex(model.bundle.catalogue)
    rest()
    max_batch = config.batch.max_batch
    times = warm_up(model, max_batch, clock, rest)
    log.info(
        "warmed up: batch of 1 %.2f ms, of %d %.2f ms",
        1e3 * times.predict(1),
        max_batch,
        1e3 * times.predict(max_batch),
    )
    return Opened(model=model, items=items, times=times)


def assembled(
    opened: Opened,
    config: ServeConfig,
    compute: ComputeThread,
    clock: Callable[[], float],
    lease: ExitStack | None = None,
) -> Deployment:
    """Put a batcher and a service before an open model; on the event loop's thread."""
    model = opened.model
    batcher = Batcher[RowRequest, RowAnswer](
        with_popular(model.recommend, model.named),
        compute,
        config.batch,
        clock=clock,
        times=opened.times,
        length=history_length,
    )
    facts = ModelFacts(model.version, model.max_length, model.bundle.manifest.exclude_seen)
    service = Service(opened.items, batcher, facts, config.limits, model.named)
    asides = Asides(compute, clock=clock)
    return Deployment(
        model=model,
        batcher=batcher,
        service=service,
        asides=asides,
        similar=SimilarItems(service, asides, Vectors.of(model), clock=clock),
        explaining=ExplainItems(service, asides, model.explainer, clock=clock),
        times=opened.times,
        lease=lease or ExitStack(),
    )


def warm_up(
    model: SequenceModel, max_batch: int, clock: Callable[[], float], rest: Rest = no_rest
) -> BatchTimes:
    """Run batches of every power of two with the shortest and the longest histories."""
    items = model.bundle.manifest.tables.items
    times = BatchTimes()
    for size in sizes_up_to(max_batch):
        for length in (1, model.max_length):
            batch = warm_up_batch(size, length, items)
            least_s = math.inf
            for _ in range(WARM_UP_ROUNDS):
                started = clock()
                model.recommend(batch)
                least_s = min(least_s, clock() - started)
                rest()
        times.record(size, least_s)
    times.settle()
    return times


def sizes_up_to(max_batch: int) -> list[int]:
    """Return the powers of two below `max_batch`, and `max_batch`."""
    return [*(1 << n for n in range(max_batch.bit_length()) if 1 << n < max_batch), max_batch]


def warm_up_batch(size: int, length: int, items: int) -> list[RowRequest]:
    """Return `size` requests with histories of `length` rows."""
    history = [1 + place % items for place in range(length)]
    return [RowRequest(history, history, min(10, items)) for _ in range(size)]


def utc_now() -> str:
    """Return the time, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
