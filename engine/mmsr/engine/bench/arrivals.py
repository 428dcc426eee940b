"""When requests are meant to be sent, and which history each carries. Pure: a seed in, arrays out.

Everything is drawn from one seed whatever the number of generator processes, and then dealt out:
so two runs with another number of processes send the same requests at the same times.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mmsr.engine.bench.schedule import Segment, expected_requests, steps, times_of, total_s

# A arrivals, H histories

Indices = npt.NDArray[np.int64]

POISSON, CONSTANT = "poisson", "constant"
ARRIVALS = (POISSON, CONSTANT)
IN_ORDER, UNIFORM, ZIPF = "in-order", "uniform", "zipf"
CHOICES = (IN_ORDER, UNIFORM, ZIPF)


def poisson_arrivals_s(rate_per_s: float, total_s: float, seed: int) -> npt.NDArray[np.float64]:
    """Return Poisson arrival times [A] of one rate in [0, total_s), in seconds, ascending."""
    return arrival_times_s(steps([rate_per_s], total_s), POISSON, seed)


def arrival_times_s(
    segments: Sequence[Segment], arrivals: str, seed: int
) -> npt.NDArray[np.float64]:
    """Return the arrival times [A] of a schedule, in seconds, ascending.

    "poisson": independent users; the gaps are exponential. Given their number, the arrivals are
    uniform in the expected count, which is how they are drawn here. "constant": evenly spaced.
    """
    expected = expected_requests(segments)
    if arrivals == CONSTANT:
        counts_A = np.arange(int(expected), dtype=np.float64) + 0.5
    else:
        random = np.random.default_rng(seed)
        counts_A = np.sort(random.uniform(0.0, expected, random.poisson(expected)))
    times_A = times_of(segments, counts_A)
    return times_A[times_A < total_s(segments)]


def share_of(count: int, rank: int, processes: int, seed: int) -> Indices:
    """Return which of `count` arrivals process `rank` sends, ascending.

    Each arrival falls to a process by chance: a Poisson process thinned so is again one.
    """
    if processes == 1:
        return np.arange(count, dtype=np.int64)
    owner_A = np.random.default_rng([seed, 1]).integers(0, processes, count)
    return np.flatnonzero(owner_A == rank).astype(np.int64)


def part_of(whole: int, rank: int, processes: int) -> int:
    """Return how much of `whole` falls to process `rank`, as evenly as whole numbers allow."""
    return whole // processes + (1 if rank < whole % processes else 0)


def history_order(count: int, histories: int, choice: str, seed: int) -> Indices:
    """Return which history each of `count` requests carries [A].

    "in-order": one after the other, again and again. "uniform": any. "zipf": the r-th history with
    a chance of 1 / r, as few users make most of a shop's visits.
    """
    if choice == IN_ORDER:
        return np.arange(count, dtype=np.int64) % histories
    random = np.random.default_rng([seed, 2])
    if choice == UNIFORM:
        return random.integers(0, histories, count)
    weights_H = 1.0 / np.arange(1, histories + 1)
    return random.choice(histories, count, p=weights_H / weights_H.sum()).astype(np.int64)
