"""Writes in numbers: what became of each in, percentiles and counts out. Pure."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from mmsr.engine.bench.blocks import Block, Interval, block_starts, count_blocks, cut, interval
from mmsr.engine.bench.histograms import encode, merge
from mmsr.engine.bench.latency import (
    PERCENTILES,
    Values,
    percentile_name,
    percentiles,
    quantile,
    void_reason,
)
from mmsr.engine.bench.plan import Window
from mmsr.engine.bench.samples import OK
from mmsr.engine.bench.summary import Percentiles
from mmsr.engine.bench.wire import REFUSALS, STATUS_NAMES
from mmsr.engine.bench.writes import KINDS, Written

# W writes

ALL = "all of these"
TimeOf = Callable[[Written], float | None]


@dataclass(frozen=True, kw_only=True)
class Timed:
    """How long some writes took; one without a time counts as slower than every other."""

    ms: Percentiles
    intervals: dict[str, Interval | None]  # 95 %, where there is a percentile
    most_ms: float | None  # None too if one has no time
    histogram: str


@dataclass(frozen=True, kw_only=True)
class WriteSummary:
    """The writes of one kind that were meant for after a warm-up."""

    kind: str
    writes: int
    refused: int  # RESOURCE_EXHAUSTED, CANCELLED
    failed: int  # any other status
    not_shown: int  # acknowledged, and not in the answers within the deadline
    acknowledged: Timed
    shown: Timed
    encode_ms: float | None  # mean of what the server's encoders took, where they were asked


def counted(done: Sequence[Written], warm_up_s: float) -> list[Written]:
    """Return the writes meant for after the warm-up of their window."""
    return [write for write in done if write.intended_s >= warm_up_s]


def summarise_writes(done: Sequence[Written], window: Window) -> list[WriteSummary]:
    """Return one summary a kind that was written, and one of all."""
    chosen = counted(done, window.warm_up_s)
    named = [(kind, [write for write in chosen if write.kind == kind]) for kind in KINDS]
    return [_summary(kind, writes, window) for kind, writes in [*named, (ALL, chosen)] if writes]


def _summary(kind: str, writes: Sequence[Written], window: Window) -> WriteSummary:
    acknowledged = [write for write in writes if write.status == OK]
    refused = sum(write.status in REFUSALS for write in writes)
    encoded = [write.encode_ms for write in acknowledged if write.encode_ms]
    return WriteSummary(
        kind=kind,
        writes=len(writes),
        refused=refused,
        failed=len(writes) - len(acknowledged) - refused,
        not_shown=sum(write.shown_ms is None for write in acknowledged),
        acknowledged=_timed(writes, lambda write: write.acknowledged_ms, window),
        shown=_timed(writes, lambda write: write.shown_ms, window),
        encode_ms=float(np.mean(encoded)) if encoded else None,
    )


def _timed(writes: Sequence[Written], time_of: TimeOf, window: Window) -> Timed:
    times_ms = _times(writes, time_of)
    lacking = len(writes) - len(times_ms)
    found = percentiles(times_ms, lacking)
    blocks = count_blocks(write_blocks(writes, time_of, window))
    return Timed(
        ms=found,
        intervals={
            (name := percentile_name(p)): None
            if found[name] is None
            else interval(blocks, partial(blocks.quantiles, p=p))
            for p in PERCENTILES
        },
        most_ms=float(times_ms.max()) if len(times_ms) and not lacking else None,
        histogram=merge([encode(times_ms)]),
    )


def _times(writes: Sequence[Written], time_of: TimeOf) -> Values:
    return np.array([ms for write in writes if (ms := time_of(write)) is not None], np.float64)


def write_blocks(writes: Sequence[Written], time_of: TimeOf, window: Window) -> list[Block]:
    """Return the seconds of every window that has a write, to draw anew from."""
    blocks = []
    for number in sorted({write.window for write in writes}):
        mine = [write for write in writes if write.window == number]
        at_s = np.array([write.intended_s - window.warm_up_s for write in mine])
        inside = cut(at_s, window.duration_s)
        starts = block_starts(window.duration_s)
        for (start_s, seconds), in_W in zip(starts, inside, strict=True):
            some = [write for write, taken in zip(mine, in_W.tolist(), strict=True) if taken]
            times_ms = _times(some, time_of)
            blocks.append(
                Block(
                    start_s=start_s,
                    seconds=seconds,
                    requests=len(some),
                    answered=len(times_ms),
                    good=len(times_ms),
                    refused=sum(write.status in REFUSALS for write in some),
                    p50_ms=quantile(times_ms, 0.5) if len(times_ms) else None,
                    p99_ms=quantile(times_ms, 0.99) if len(times_ms) else None,
                    histogram=encode(times_ms),
                )
            )
    return blocks


def write_findings(done: Sequence[Written], window: Window) -> dict[str, Any]:
    """Return all that is known of the writes, as JSON values."""
    chosen = counted(done, window.warm_up_s)
    gaps_ms = _times(chosen, lambda write: write.gap_ms)
    lags_ms = np.array([write.lag_ms for write in chosen])
    failures = Counter(STATUS_NAMES[write.status] for write in chosen if write.status != OK)
    return {
        "kinds": [asdict(summary) for summary in summarise_writes(done, window)],
        "statuses": dict(failures.most_common()),
        "warm_up_writes": len(done) - len(chosen),
        "stale": sum(write.stale for write in chosen),
        "gap_ms": {
            "p50": quantile(gaps_ms, 0.5) if len(gaps_ms) else None,
            "most": float(gaps_ms.max()) if len(gaps_ms) else None,
        },
        "lag_ms": percentiles(lags_ms),
    }


def void_writes(done: Sequence[Written], window: Window, misled: int) -> str | None:
    """Say why the writes do not count, or None if they do."""
    chosen = counted(done, window.warm_up_s)
    if misled:
        return (
            f"{misled:,} answers lacked the item of the bundle that was asked for beside those "
            "that were written: they say nothing"
        )
    shown_ms = _times(chosen, lambda write: write.shown_ms)
    if not len(shown_ms):
        return "no write was shown by an answer"
    return void_reason(shown_ms, np.array([write.lag_ms for write in chosen]))
