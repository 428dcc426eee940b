"""From a bundle's folder to a service that has been proven. Knows nothing of gRPC."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmsr.engine.batch_times import BatchTimes
from mmsr.engine.batcher import Batcher
from mmsr.engine.catalogue.live import LiveCatalogue
from mmsr.engine.catalogue.live_rows import LiveRows
from mmsr.engine.compute import ComputeThread
from mmsr.engine.config import ServeConfig
from mmsr.engine.items import ItemIndex
from mmsr.engine.model import RowAnswer, RowRequest, SequenceModel, open_model
from mmsr.engine.probe import ProbeReport, prove
from mmsr.engine.service import ModelFacts, Service

log = logging.getLogger(__name__)

WARM_UP_ROUNDS = 2  # the first one touches memory for the first time; the last is measured


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One bundle in use."""

    model: SequenceModel
    batcher: Batcher[RowRequest, RowAnswer]
    service: Service
    live: LiveRows | None = None  # what changes of it; None without a live catalogue


async def deploy(
    folder: Path,
    config: ServeConfig,
    compute: ComputeThread,
    clock: Callable[[], float],
    catalogue: LiveCatalogue | None = None,
) -> Deployment:
    """Verify, load, prove and warm up a bundle; each step runs in `compute`.

    Then it is shown what `catalogue` holds; whoever closes its model calls `catalogue.detach`
    before. `BundleError`: something in it is wrong. `ProbeFailed`: it does not answer like PyTorch.
    """
    started = clock()
    model = await compute.run(lambda: open_model(folder, threads=config.server.threads))
    items = ItemIndex(model.bundle.catalogue)
    log.info("verified bundle %s in %.1f s", model.version, clock() - started)
    report = await compute.run(lambda: prove(model))
    log.info("probed: %s", describe(report))
    report.check()
    times = await compute.run(lambda: warm_up(model, config.batch.max_batch, len(items), clock))
    log.info(
        "warmed up: batch of 1 %.2f ms, of %d %.2f ms",
        1e3 * times.predict(1),
        config.batch.max_batch,
        1e3 * times.predict(config.batch.max_batch),
    )
    batcher = Batcher[RowRequest, RowAnswer](
        model.recommend, compute, config.batch, clock=clock, times=times
    )
    live = None if catalogue is None else await catalogue.attach(model)
    facts = ModelFacts(model.version, model.max_length, model.bundle.manifest.exclude_seen)
    service = Service(live.index if live else items, batcher, facts, config.limits)
    return Deployment(model=model, batcher=batcher, service=service, live=live)


def warm_up(
    model: SequenceModel, max_batch: int, items: int, clock: Callable[[], float]
) -> BatchTimes:
    """Run the smallest and the largest batch with the shortest and the longest histories."""
    times = BatchTimes()
    for size in (1, max_batch):
        for length in (1, model.max_length):
            batch = warm_up_batch(size, length, items)
            for _ in range(WARM_UP_ROUNDS):
                started = clock()
                model.recommend(batch)
                spent_s = clock() - started
        times.record(size, spent_s)
    return times


def warm_up_batch(size: int, length: int, items: int) -> list[RowRequest]:
    """Return `size` requests with histories of `length` rows."""
    history = [1 + place % items for place in range(length)]
    return [RowRequest(history, history, min(10, items)) for _ in range(size)]


def describe(report: ProbeReport) -> str:
    """Return the report as half a line of text."""
    return (
        f"{report.users} users, overlap@{report.k} {report.overlap:.4f}, with filters "
        f"{report.filtered.overlap:.4f}, largest score error "
        f"{report.max_abs_error:.1e}, NDCG@10 {report.ndcg:.4f} (PyTorch "
        f"{report.ndcg_reference:.4f})"
    )
