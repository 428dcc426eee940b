"""Calls in turns: forth and back through the contestants, round after round, paired by round.

What disturbs this machine for a while disturbs everybody: ratios are of one round's medians.
"""

# R rounds, S resamples

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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
    wall_ms: list[float] = field(default_factory=list)  # median of each round
    cpu_ms: list[float] = field(default_factory=list)  # the same of the process, all threads


@dataclass(frozen=True, kw_only=True)
class Beside:
    """How many times as long one contestant takes as another: median and range over the rounds."""

    wall: float
    wall_least: float
    wall_most: float
    cpu: float
    cpu_least: float
    cpu_most: float


def beside(line: Line, other: Line) -> Beside:
    """Compare two contestants round by round."""
    wall_R = np.array(line.wall_ms) / np.array(other.wall_ms)
    cpu_R = np.array(line.cpu_ms) / np.array(other.cpu_ms)
    return Beside(
        wall=float(np.median(wall_R)),
        wall_least=float(wall_R.min()),
        wall_most=float(wall_R.max()),
        cpu=float(np.median(cpu_R)),
        cpu_least=float(cpu_R.min()),
        cpu_most=float(cpu_R.max()),
    )


def take_turns(calls: Mapping[str, Call], rounds: int, turn_s: float) -> list[Line]:
    """Time every call for about `turn_s` a turn, two turns a round (A B ... B A)."""
    medians: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():  # compile, allocate
        _times_s(call, turn_s / 2)
    for _ in range(rounds):
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for name in [*calls, *reversed(list(calls))]:
            taken[name] += _times_s(calls[name], turn_s)
        for name, times in taken.items():
            medians[name].append(float(np.median([wall for wall, _ in times])))
            cpu[name].append(float(np.median([spent for _, spent in times])))
    first = next(iter(medians.values()))
    return [_line(name, first, found, cpu[name]) for name, found in medians.items()]


def _times_s(call: Call, turn_s: float) -> list[tuple[float, float]]:
    """Return the seconds of some calls, by the clock and of CPU."""
    times: list[tuple[float, float]] = []
    end_s = time.perf_counter() + turn_s
    while len(times) < MIN_CALLS or time.perf_counter() < end_s:
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        call()
        spent_s = time.perf_counter() - start_s
        times.append((spent_s, time.process_time() - start_cpu_s))
    return times


def _line(name: str, first_R: list[float], found_R: list[float], cpu_R: list[float]) -> Line:
    logs_R = np.log(first_R) - np.log(found_R)
    low, high = paired_interval(logs_R, np.zeros(len(logs_R)))
    return Line(
        name=name,
        p50_ms=1e3 * float(np.median(found_R)),
        ratio=float(np.exp(np.median(logs_R))),
        ratio_low=float(np.exp(low)),
        ratio_high=float(np.exp(high)),
        wall_ms=[1e3 * taken for taken in found_R],
        cpu_ms=[1e3 * taken for taken in cpu_R],
    )
