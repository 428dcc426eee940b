"""`mmsr-bench slo`, without its flags: the highest rate at which p99 stays within a limit.

Short runs halve the rates between one that holds and one that does not; then only the last two of
them are run again, for longer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mmsr.engine.bench.latency import needed_samples
from mmsr.engine.bench.plan import BenchError, RunPlan, Traffic, Window
from mmsr.engine.bench.report import ServerReport
from mmsr.engine.bench.server_bench import Load, Subject, measured_report, open_load
from mmsr.engine.bench.summary import RunSummary

CAPACITY_CALLERS = 32
RESOLUTION = 0.05  # of the rate: nearer the machine's own noise is measured
SAMPLES_SPARE = 1.2  # so that a Poisson count falls short of what p99 needs only now and then
SLOWEST_PER_S = 1.0
STEP_UP = 1.25
MOST_STEPS_UP = 8  # from the capacity of a closed loop: 4.8 times it
STEP_DOWN = 0.9  # where the confirmation fails
MOST_STEPS_DOWN = 4


@dataclass(frozen=True, kw_only=True)
class SloBench:
    """What to search for."""

    subject: Subject
    traffic: Traffic  # its slo_ms is the limit of p99
    window: Window  # of the confirming runs
    probe_s: float  # of each run of the search
    ceilings: bool = True

    def __post_init__(self) -> None:
        if not 0.5 <= self.probe_s <= 3600:
            raise BenchError(f"probe-s is {self.probe_s:g}; expected 0.5 to 3600")

    def plan(self, rate_per_s: float, seconds: float) -> RunPlan:
        """Return an open loop long enough for a p99."""
        long_enough_s = SAMPLES_SPARE * needed_samples(0.99) / rate_per_s
        window = replace(self.window, duration_s=max(seconds, long_enough_s))
        return RunPlan(rate_per_s=rate_per_s, window=window, traffic=self.traffic)


def holds(run: RunSummary) -> bool:
    """Tell whether p99 is within the limit, in a run that counts."""
    p99_ms = run.latency_ms["p99"]
    return run.void is None and p99_ms is not None and p99_ms <= run.plan.traffic.slo_ms


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """The rates between which the limit lies; None: no rate that was tried holds (or fails)."""

    holds_per_s: float | None
    fails_per_s: float | None


def search(first_per_s: float, try_rate: Callable[[float], bool]) -> Bracket:
    """Halve between a rate that holds and one that does not, to within `RESOLUTION`.

    Begins at `first_per_s`. Where that holds it goes up first: larger batches may let a server do
    more than a closed loop of some callers asks of it.
    """
    low: float | None = None
    high: float | None = None
    rate = first_per_s
    for _ in range(MOST_STEPS_UP):
        if not try_rate(rate):
            high = rate
            break
        low = rate
        rate = round(rate * STEP_UP, 1)
    if high is None:
        return Bracket(holds_per_s=low, fails_per_s=None)
    while high > SLOWEST_PER_S and (low is None or (high - low) > RESOLUTION * high):
        middle = round(high / 2 if low is None else (low + high) / 2, 1)
        if try_rate(middle):
            low = middle
        else:
            high = middle
    return Bracket(holds_per_s=low, fails_per_s=high)


def confirm(bracket: Bracket, try_rate: Callable[[float], bool]) -> float | None:
    """Run the last two rates again; return the highest that held, or None.

    Where neither does, lower rates are tried in steps of a tenth.
    """
    if bracket.fails_per_s is not None and try_rate(bracket.fails_per_s):
        return bracket.fails_per_s
    rate_per_s = bracket.holds_per_s
    for _ in range(MOST_STEPS_DOWN):
        if rate_per_s is None or rate_per_s < SLOWEST_PER_S:
            return None
        if try_rate(rate_per_s):
            return rate_per_s
        rate_per_s = round(rate_per_s * STEP_DOWN, 1)
    return None


def measure_slo(bench: SloBench) -> ServerReport:
    """Find the rate; the report has every run that it took, the confirming ones last."""
    load = open_load(bench.subject, bench.window.seed)

    def find() -> dict[str, Any]:
        capacity = closed_capacity(load, bench.window, bench.traffic, bench.probe_s)
        bracket = search(
            round(capacity, 1), lambda rate: holds(load.run(bench.plan(rate, bench.probe_s)))
        )
        first_confirming = len(load.runs)
        found = confirm(
            bracket, lambda rate: holds(load.run(bench.plan(rate, bench.window.duration_s)))
        )
        return {
            "slo_ms": bench.traffic.slo_ms,
            "capacity_per_s": capacity,
            "rate_per_s": found,
            "first_confirming_run": first_confirming,
        }

    return measured_report("slo", load, find, ceilings=bench.ceilings)


def closed_capacity(load: Load, window: Window, traffic: Traffic, seconds: float) -> float:
    """Return the answers per second of a closed loop: where the search begins."""
    window = replace(window, duration_s=seconds)
    plan = RunPlan(concurrency=CAPACITY_CALLERS, window=window, traffic=traffic)
    capacity = load.run(plan).answered_per_s
    if capacity < SLOWEST_PER_S:
        raise BenchError(f"{load.subject.target} answers {capacity:g} requests/s; nothing to find")
    return capacity
