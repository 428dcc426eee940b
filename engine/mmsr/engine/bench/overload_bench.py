"""`mmsr-bench overload`, without its flags: what a server does when more comes than it can do.

Open loops at shares of the capacity that a closed loop finds; then half of it, the largest share,
and half of it again in one run, for the time that the server needs to recover.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mmsr.engine.bench.plan import BenchError, RunPlan, Traffic, Window
from mmsr.engine.bench.report import ServerReport
from mmsr.engine.bench.samples import OK, Samples
from mmsr.engine.bench.schedule import steps
from mmsr.engine.bench.server_bench import Subject, measured_report, open_load
from mmsr.engine.bench.slo_bench import closed_capacity
from mmsr.engine.bench.summary import Percentiles, RunSummary

CALM = 0.5  # of the capacity: before and after
MOST_FACTORS = 0.05, 20.0
RECOVERED_SHARE = 0.99  # of the requests of the next second are good again
RECOVERED_FOR_S = 1.0


@dataclass(frozen=True, kw_only=True)
class OverloadBench:
    """What to measure."""

    subject: Subject
    factors: Sequence[float]  # of the capacity
    traffic: Traffic
    window: Window
    capacity_per_s: float | None  # None: found by a closed loop
    ceilings: bool = True

    def __post_init__(self) -> None:
        low, high = MOST_FACTORS
        if not self.factors or not all(low <= factor <= high for factor in self.factors):
            raise BenchError(f"factors {list(self.factors)}; expected shares from {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What became of the requests at one share of the capacity."""

    factor: float
    intended_per_s: float
    goodput_per_s: float
    share_of_capacity: float  # goodput over capacity
    answered: float  # shares of all requests
    refused: float
    failed: float
    refusal_ms: Percentiles
    void: bool


def measure_overload(bench: OverloadBench) -> ServerReport:
    """Measure every factor, then the recovery from the largest."""
    load = open_load(bench.subject, bench.window.seed)

    def measure() -> dict[str, Any]:
        capacity = bench.capacity_per_s or closed_capacity(
            load, bench.window, bench.traffic, bench.window.duration_s
        )
        loaded = []
        for factor in bench.factors:
            plan = RunPlan(
                rate_per_s=whole_rate(factor * capacity), window=bench.window, traffic=bench.traffic
            )
            loaded.append(loaded_of(factor, capacity, load.run(plan)))
        plan = recovery_plan(bench, capacity)
        load.run(plan)
        assert load.samples is not None
        return {
            "capacity_per_s": capacity,
            "loaded": [asdict(one) for one in loaded],
            "recovery_factor": max(bench.factors),
            "recovery_s": recovery_s(
                load.samples, plan.window.warm_up_s + 2 * bench.window.duration_s, plan
            ),
        }

    return measured_report("overload", load, measure, ceilings=bench.ceilings)


def whole_rate(rate_per_s: float) -> float:
    """Return a rate without a fraction that says nothing; one below 10 keeps it."""
    return float(round(rate_per_s)) if rate_per_s >= 10 else round(rate_per_s, 2)


def recovery_plan(bench: OverloadBench, capacity_per_s: float) -> RunPlan:
    """Return calm, the largest overload and calm again, each as long as a run."""
    rates = [share * capacity_per_s for share in (CALM, max(bench.factors), CALM)]
    window = replace(bench.window, duration_s=3 * bench.window.duration_s)
    schedule = steps(list(map(whole_rate, rates)), window.duration_s)
    return RunPlan(schedule=schedule, window=window, traffic=bench.traffic)


def loaded_of(factor: float, capacity_per_s: float, run: RunSummary) -> Loaded:
    """Return a run as shares of what was sent."""
    requests = max(1, run.requests)
    refused = sum(run.refusals.values())
    return Loaded(
        factor=factor,
        intended_per_s=run.intended_per_s or 0.0,
        goodput_per_s=run.goodput_per_s,
        share_of_capacity=run.goodput_per_s / capacity_per_s,
        answered=run.answered / requests,
        refused=refused / requests,
        failed=sum(run.errors.values()) / requests,
        refusal_ms=run.refusal_ms,
        void=run.void is not None,
    )


def recovery_s(samples: Samples, overload_end_s: float, plan: RunPlan) -> float | None:
    """Return how long after the overload a whole second of requests is good again.

    The time of the first request from which on 99 % of those of the next second were answered
    within the SLO; None if there is no such second in the run.
    """
    after = samples.pick(samples.intended_s_R >= overload_end_s)
    order_R = np.argsort(after.intended_s_R, kind="stable")
    at_s = after.intended_s_R[order_R]
    took_ms = (after.done_s_R - after.intended_s_R)[order_R] * 1e3
    good = (after.status_R[order_R] == OK) & (took_ms <= plan.traffic.slo_ms)
    good_before = np.append(0, np.cumsum(good))
    ends = np.searchsorted(at_s, at_s + RECOVERED_FOR_S)
    begins = np.arange(len(at_s))
    whole = at_s + RECOVERED_FOR_S <= plan.window.total_s
    share = (good_before[ends] - good_before[begins]) / np.maximum(1, ends - begins)
    recovered = np.flatnonzero(whole & (share >= RECOVERED_SHARE))
    return float(at_s[recovered[0]] - overload_end_s) if len(recovered) else None
