"""What the parts of a server say of themselves at a scrape: bundles, batches, reloads, loop."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from prometheus_client.core import Metric

from mmsr.engine.admin_control import ItemCounts, Live, Served
from mmsr.engine.batcher import SIZE_BOUNDS, Counters
from mmsr.engine.call_stats import Histogram
from mmsr.engine.deployment import Deployment
from mmsr.engine.metrics import counter, gauge, histogram, info
from mmsr.engine.serving import Serving

LAG_EVERY_S = 0.25
STUCK_S = 30.0  # without a turn of the event loop: whoever restarts servers should
LAGS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
BY_LABEL = ("label",)


class Counted(Protocol):
    """Knows the items behind a label: `Control` does."""

    @property
    def live(self) -> Live | None:
        """The catalogue that changes, if there is one."""

    def served(self, label: str) -> Served:
        """Return what answers under a label."""


class ServingMetrics:
    """What is served, by label."""

    def __init__(self, serving: Serving, counted: Counted, version: str) -> None:
        self._serving = serving
        self._counted = counted
        self._version = version

    def metrics(self) -> Iterator[Metric]:
        """Return it as it is now."""
        served = dict(self._serving.deployments)
        yield info("mmsr_build", "The release.", [{"version": self._version}])
        yield info(
            "mmsr_bundle",
            "The bundle behind a label.",
            [
                {
                    "label": label,
                    "model_version": deployment.model.version,
                    "runner": deployment.model.runner.name,
                }
                for label, deployment in served.items()
            ],
        )
        live = self._counted.live
        version = live.version if live is not None else 0
        yield gauge("mmsr_catalogue_version", "Changes of the live catalogue.", (), {(): version})
        counts = {label: self._counted.served(label).counts for label in served}
        for name, about, count in COUNTS:
            yield gauge(name, about, BY_LABEL, {label: count(c) for label, c in counts.items()})
        for name, about, value in GAUGES:
            found = {label: value(deployment) for label, deployment in served.items()}
            yield gauge(name, about, BY_LABEL, found)
        counters = {label: deployment.batcher.counters for label, deployment in served.items()}
        yield from batch_metrics(counters)


def batch_metrics(counters: dict[str, Counters]) -> Iterator[Metric]:
    """Return what the batchers count."""
    sizes = {}
    for label, counted in counters.items():
        sizes[label,] = Histogram(SIZE_BOUNDS)
        sizes[label,].counts = list(counted.sizes)
        sizes[label,].total = counted.jobs
    yield histogram("mmsr_batch_size", "Requests computed together.", BY_LABEL, sizes)
    yield counter(
        "mmsr_runner_busy_seconds",
        "Time in which the runner computed; its rate is the share of time.",
        BY_LABEL,
        {label: counted.busy_s for label, counted in counters.items()},
    )


def _table_bytes(deployment: Deployment) -> float:
    bundle = deployment.model.bundle
    codes = sum(table.nbytes for table in bundle.codes.values())
    return bundle.item_inputs_CW.nbytes + bundle.item_outputs_CD.nbytes + codes


Value = Callable[[Deployment], float]
GAUGES: tuple[tuple[str, str, Value], ...] = (
    ("mmsr_table_bytes", "Item tables of the runner, on disk or device.", _table_bytes),
    ("mmsr_queue_depth", "Requests that wait for the runner.", lambda d: d.batcher.depth),
)


COUNTS: tuple[tuple[str, str, Callable[[ItemCounts], float]], ...] = (
    ("mmsr_items", "Items that are known, live ones among them.", lambda c: c.items),
    ("mmsr_live_items", "Items that were written since the export.", lambda c: c.live_items),
    ("mmsr_spare_rows", "Rows that are left for new items.", lambda c: c.spare_rows),
)


class LoadMetrics:
    """Counts loads of bundles, the first ones and those that take the place of others."""

    def __init__(self) -> None:
        self._ended: Counter[tuple[str, str]] = Counter()  # by label and result
        self._failed: dict[str, float] = {}  # by label: 1 if the last one did
        self._seconds: dict[str, float] = {}

    @contextmanager
    def counted(self, label: str) -> Iterator[None]:
        """Count what is done inside as one load; it failed if it raises."""
        began, ok = time.monotonic(), False
        try:
            yield
            ok = True
        finally:
            self.ended(label, time.monotonic() - began, ok)

    def ended(self, label: str, seconds: float, ok: bool) -> None:
        """Note that a load has ended."""
        self._ended[label, "ok" if ok else "failed"] += 1
        self._failed[label] = 0.0 if ok else 1.0
        self._seconds[label] = seconds

    def metrics(self) -> Iterator[Metric]:
        """Return the counts."""
        names = ("label", "result")
        yield counter("mmsr_loads", "Bundles loaded, the first ones too.", names, dict(self._ended))
        yield gauge(
            "mmsr_load_failed",
            "1 if the label's last load failed: the bundle before serves.",
            BY_LABEL,
            dict(self._failed),
        )
        yield gauge("mmsr_load_seconds", "What the last load took.", BY_LABEL, dict(self._seconds))


class Watched(Protocol):
    """Files that are read anew when they change."""

    reloads: int
    failures: int


class StateMetrics:
    """Whether the server says SERVING, and whether what it re-reads could be read."""

    def __init__(self, is_serving: Callable[[], bool], watched: Mapping[str, Watched]) -> None:
        self._is_serving = is_serving
        self._watched = watched  # by what it is: "tokens", "certificates"

    def metrics(self) -> Iterator[Metric]:
        """Return them as they are now."""
        yield gauge("mmsr_serving", "1 if health says SERVING.", (), {(): self._is_serving()})
        found = {}
        for what, files in self._watched.items():
            found[what, "ok"] = float(files.reloads)
            found[what, "failed"] = float(files.failures)
        yield counter(
            "mmsr_security_reloads", "Tokens or certificates read anew.", ("what", "result"), found
        )


class LoopLag:
    """How late the event loop is: requests, answers and batches all pass through it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock  # not the loop's own, which stands still with it
        self._lags = Histogram(LAGS)
        self._timer: asyncio.TimerHandle | None = None
        self._turned = clock()

    def start(self) -> None:
        """Measure from now on, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._wait()

    def stuck(self) -> str | None:
        """Say for how long the loop has not turned, if it is too long; for another thread."""
        still_s = self._clock() - self._turned
        if self._timer is None or still_s <= STUCK_S:
            return None
        return f"the event loop has stood still for {still_s:.0f} s"

    def stop(self) -> None:
        """Measure no more."""
        if self._timer is not None:
            self._timer.cancel()

    def metrics(self) -> Iterator[Metric]:
        """Return the lags so far."""
        about = f"How late a timer of {LAG_EVERY_S:g} s came."
        yield histogram("mmsr_event_loop_lag_seconds", about, (), {(): self._lags})

    def _wait(self) -> None:
        self._turned = self._clock()
        self._due = self._loop.time() + LAG_EVERY_S
        self._timer = self._loop.call_at(self._due, self._came)

    def _came(self) -> None:
        self._lags.add(max(0.0, self._loop.time() - self._due))
        self._wait()
