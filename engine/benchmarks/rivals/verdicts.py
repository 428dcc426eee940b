"""Blocks of load -> rates, percentiles, ratios. Pure numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.rivals.load import Block
from mmsr.engine.bench.latency import percentile, void_reason

BOUND_MS = 50.0  # of p99


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A median between the least and the greatest of the rounds."""

    median: float
    least: float
    greatest: float

    def text(self, decimals: int) -> str:
        """Return it as "0.95 (0.91–0.99)"."""
        least, greatest = f"{self.least:,.{decimals}f}", f"{self.greatest:,.{decimals}f}"
        return f"{self.median:,.{decimals}f} ({least}–{greatest})"


def spread(values: Sequence[float]) -> Spread:
    """Return the median between the extremes."""
    return Spread(median=median(values), least=min(values), greatest=max(values))


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Return the median of the rounds' own ratios, between their extremes; equal lengths."""
    return spread([a / b if b else float("inf") for a, b in zip(over, under, strict=True)])


@dataclass(frozen=True, kw_only=True)
class Found:
    """One block in numbers. A failed request counts as slower than every answer."""

    per_s: float
    p50_ms: float | None
    p99_ms: float | None  # None below 1,000 requests, or where it falls among the failed
    failed: int
    first_failure: str
    server_cpu_ms: float | None  # per answer
    client_cpu_ms: float | None
    lag_p50_ms: float | None
    lag_p99_ms: float | None
    void: str | None  # why it does not count


def found(block: Block) -> Found:
    """Sum a block up."""
    latency_ms_R, lag_ms_R = 1e3 * np.array(block.latency_s), 1e3 * np.array(block.lag_s)
    answers = block.all_answers
    is_open = block.plan.rate_per_s is not None
    return Found(
        per_s=block.per_s,
        p50_ms=percentile(latency_ms_R, 0.5, block.failed),
        p99_ms=percentile(latency_ms_R, 0.99, block.failed),
        failed=block.failed,
        first_failure=block.first_failure,
        server_cpu_ms=1e3 * block.server_cpu_s / answers if answers else None,
        client_cpu_ms=1e3 * block.client_cpu_s / answers if answers else None,
        lag_p50_ms=percentile(lag_ms_R, 0.5) if is_open else None,
        lag_p99_ms=percentile(lag_ms_R, 0.99) if is_open else None,
        void=void_reason(latency_ms_R, lag_ms_R) if is_open else None,
    )


def holds(block: Block, bound_ms: float = BOUND_MS) -> bool:
    """Tell whether 99 of 100 requests were answered within the bound, failures being beyond it.

    A search has no time for the thousand requests that a printed p99 needs at a slow server's rate.
    """
    requests = len(block.latency_s) + block.failed
    late = block.failed + sum(1e3 * latency_s > bound_ms for latency_s in block.latency_s)
    return requests > 0 and late <= 0.01 * requests
