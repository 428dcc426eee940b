"""A run cut into blocks of one second, and intervals by drawing blocks anew. Pure numbers.

Requests of one second share what happened in it (a stall, a neighbour's burst), so single requests
drawn anew would promise too much; whole seconds do not. (Block bootstrap: Kuensch, Annals of
Statistics 1989; blocks that do not overlap: Carlstein 1986.)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsr.engine.bench.histograms import bins

# R requests, B blocks, V different values, D draws

Values = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Interval = tuple[float, float | None]  # None: among the failed, above every answer

BLOCK_S = 1.0
DRAWS = 1000
COVERAGE = 0.95
FEWEST_BLOCKS = 2
MOST_BLOCKS = 600  # that are drawn from; of a longer run neighbours are taken together


@dataclass(frozen=True, kw_only=True)
class Block:
    """One second of a run, as a report holds it."""

    start_s: float  # since the end of the warm-up
    seconds: float
    requests: int  # meant for it
    answered: int
    good: int  # answered within the time that was asked for
    refused: int
    p50_ms: float | None
    p99_ms: float | None  # of however many there are: for a picture, never for a table
    histogram: str


def cut(times_s_R: Values, duration_s: float) -> list[npt.NDArray[np.bool_]]:
    """Return which requests [R] fall into each block.

    What is left after the last whole second belongs to the block before it.
    """
    count = max(1, math.floor(duration_s / BLOCK_S + 1e-6))
    number_R = np.minimum(np.floor(times_s_R / BLOCK_S).astype(np.int64), count - 1)
    return [number_R == number for number in range(count)]


def block_starts(duration_s: float) -> list[tuple[float, float]]:
    """Return start and length of each block in seconds."""
    count = max(1, math.floor(duration_s / BLOCK_S + 1e-6))
    last_s = duration_s - (count - 1) * BLOCK_S
    return [(n * BLOCK_S, BLOCK_S if n < count - 1 else last_s) for n in range(count)]


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The blocks of one or more runs as arrays, ready to be drawn from."""

    values_V: Values  # ms, ascending
    counts_BV: Values  # answers of each value, as floats: they are multiplied
    failed_B: Values  # requests without an answer: slower than every value
    good_B: Values
    seconds_B: Values

    def drawn(self, seed: int) -> Values:
        """Return how often each block is taken in each draw [D, B]."""
        count = len(self.failed_B)
        random = np.random.default_rng(seed)
        return random.multinomial(count, np.full(count, 1 / count), DRAWS).astype(np.float64)

    def quantiles(self, weights_DB: Values, p: float) -> Values:
        """Return the p-quantile of each draw [D], in ms; infinite among the failed."""
        counts_DV = weights_DB @ self.counts_BV
        total_D = counts_DV.sum(axis=1) + weights_DB @ self.failed_B
        # Counts are whole, but for the rounding of p * total.
        needed_D = np.maximum(1, np.ceil(np.round(p * total_D, 6)))
        place_D = (np.cumsum(counts_DV, axis=1) < needed_D[:, None]).sum(axis=1)
        with_failed_V = np.append(self.values_V, np.inf)
        quantiles_D: Values = with_failed_V[place_D]
        return quantiles_D

    def goodput(self, weights_DB: Values) -> Values:
        """Return good answers per second of each draw [D]."""
        good_per_s: Values = (weights_DB @ self.good_B) / (weights_DB @ self.seconds_B)
        return good_per_s

    def rates(self, weights_DB: Values) -> Values:
        """Return answers per second of each draw [D]."""
        answered_B = self.counts_BV.sum(axis=1)
        per_s: Values = (weights_DB @ answered_B) / (weights_DB @ self.seconds_B)
        return per_s

    @property
    def as_measured(self) -> Values:
        """Return the one "draw" that takes every block once [1, B]."""
        return np.ones((1, len(self.failed_B)))


def count_blocks(blocks: Sequence[Block]) -> Counted:
    """Return blocks, of one run or of several, as arrays; at most `MOST_BLOCKS` of them."""
    decoded = [bins(block.histogram) for block in blocks]
    values_V = np.unique(np.concatenate([values for values, _ in decoded] or [np.empty(0)]))
    rows = min(len(blocks), MOST_BLOCKS)
    row_of = [place * rows // len(blocks) for place in range(len(blocks))]
    counts_BV = np.zeros((rows, len(values_V)))
    for row, (values, counts) in zip(row_of, decoded, strict=True):
        counts_BV[row, np.searchsorted(values_V, values)] += counts

    def summed(numbers: Sequence[float]) -> Values:
        totals_B = np.zeros(rows)
        np.add.at(totals_B, row_of, numbers)
        return totals_B

    return Counted(
        values_V=values_V,
        counts_BV=counts_BV,
        failed_B=summed([block.requests - block.answered for block in blocks]),
        good_B=summed([block.good for block in blocks]),
        seconds_B=summed([block.seconds for block in blocks]),
    )


def interval(
    counted: Counted, statistic: Callable[[Values], Values], seed: int = 0
) -> Interval | None:
    """Return the middle 95 % of a statistic over draws of the blocks; None under two blocks."""
    if len(counted.failed_B) < FEWEST_BLOCKS:
        return None
    return middle(statistic(counted.drawn(seed)))


def middle(values_D: Values) -> Interval | None:
    """Return the bounds of the middle 95 %; None where already the lower one is infinite."""
    low, high = np.quantile(
        values_D, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], method="inverted_cdf"
    ).tolist()
    if not math.isfinite(low):
        return None
    return low, high if math.isfinite(high) else None
