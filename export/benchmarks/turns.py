"""Calls in turns: forth and back through the contestants, round after round, paired by round.

What disturbs this machine for a while disturbs everybody: ratios are of one round's medians.
"""

# R rounds, S resamples

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mmsr.training.statistics import paired_interval

MIN_CALLS = 5
Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One contestant: its median time and the ratio of the first one's to it, round by round."""

    name: str
    p50_ms: float
    ratio: float  # of medians: how many times as long the first takes
    ratio_low: float  # 95% bootstrap interval over the rounds
    ratio_high: float


def take_turns(calls: Mapping[str, Call], rounds: int, turn_s: float) -> list[Line]:
    """Time every call for about `turn_s` a turn, two turns a round (A B ... B A)."""
    medians: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():  # compile, allocate
        _times_s(call, turn_s / 2)
    for _ in range(rounds):
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for name in [*calls, *reversed(list(calls))]:
            taken[name] += _times_s(calls[name], turn_s)
        for name, times in taken.items():
            medians[name].append(float(np.median(times)))
    first = next(iter(medians.values()))
    return [_line(name, first, found) for name, found in medians.items()]


def _times_s(call: Call, turn_s: float) -> list[float]:
    times: list[float] = []
    end_s = time.perf_counter() + turn_s
    while len(times) < MIN_CALLS or time.perf_counter() < end_s:
        start_s = time.perf_counter()
        call()
        times.append(time.perf_counter() - start_s)
    return times


def _line(name: str, first_R: list[float], found_R: list[float]) -> Line:
    logs_R = np.log(first_R) - np.log(found_R)
    low, high = paired_interval(logs_R, np.zeros(len(logs_R)))
    return Line(
        name=name,
        p50_ms=1e3 * float(np.median(found_R)),
        ratio=float(np.exp(np.median(logs_R))),
        ratio_low=float(np.exp(low)),
        ratio_high=float(np.exp(high)),
    )
