"""What scenarios decide: which rate holds, when a server has recovered, what is near a switch."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.load_report import load_report, run_of
from support.queue_in_virtual_time import measure_virtually

from mmsr.engine.bench.overload_bench import OverloadBench, recovery_plan, recovery_s
from mmsr.engine.bench.plan import BenchError, RunPlan, Traffic, Window
from mmsr.engine.bench.reload_bench import (
    NONE_SEEN,
    ReloadBench,
    Switches,
    covered_s,
    near,
    pooled,
    reload_findings,
)
from mmsr.engine.bench.samples import OK, Answer, Recorder
from mmsr.engine.bench.schedule import steps
from mmsr.engine.bench.server_bench import Subject
from mmsr.engine.bench.slo_bench import RESOLUTION, Bracket, confirm, holds, search

SUBJECT = Subject(target="h:1", repository=Path("r"), label="stable", k=5)


def below(limit_per_s: float, tried: list[float]) -> Callable[[float], bool]:
    """Return a server that holds its SLO up to a rate."""

    def holds(rate_per_s: float) -> bool:
        tried.append(rate_per_s)
        return rate_per_s <= limit_per_s

    return holds


@pytest.mark.parametrize("limit_per_s", [37.0, 480.0, 999.0, 1800.0])
def test_the_search_closes_in_on_the_limit(limit_per_s: float) -> None:
    tried: list[float] = []
    bracket = search(1000.0, below(limit_per_s, tried))
    assert bracket.holds_per_s is not None
    assert bracket.fails_per_s is not None
    assert bracket.holds_per_s <= limit_per_s < bracket.fails_per_s
    assert bracket.fails_per_s - bracket.holds_per_s <= RESOLUTION * bracket.fails_per_s
    assert len(tried) <= 11
    assert max(tried) <= 1.25 * max(limit_per_s, 1000.0)  # a server is not pressed far beyond


def test_a_server_that_holds_whatever_is_sent_ends_the_search_too() -> None:
    tried: list[float] = []
    bracket = search(100.0, below(1e9, tried))
    assert bracket.fails_per_s is None
    assert bracket.holds_per_s == tried[-1] == pytest.approx(100 * 1.25**7, rel=0.01)


def test_a_server_that_never_holds_ends_the_search() -> None:
    tried: list[float] = []
    assert search(1000.0, below(0.0, tried)).holds_per_s is None
    assert len(tried) < 15


def test_only_the_last_two_rates_are_confirmed() -> None:
    tried: list[float] = []
    assert confirm(Bracket(holds_per_s=90.0, fails_per_s=95.0), below(92.0, tried)) == 90.0
    assert tried == [95.0, 90.0]


def test_a_rate_that_does_not_hold_for_long_gives_way_to_lower_ones() -> None:
    tried: list[float] = []
    assert confirm(Bracket(holds_per_s=90.0, fails_per_s=95.0), below(80.0, tried)) == 72.9
    assert tried == [95.0, 90.0, 81.0, 72.9]
    assert confirm(Bracket(holds_per_s=None, fails_per_s=1.0), below(0.0, [])) is None


def test_recovery_is_as_long_as_the_queue_takes_to_empty() -> None:
    """One worker of 1 ms: 2,000/s for a second leave 1,000 requests; half a load empties them."""
    bench = OverloadBench(
        subject=SUBJECT,
        factors=[2.0],
        traffic=Traffic(arrivals="constant", slo_ms=50.0),
        window=Window(warm_up_s=0.5, duration_s=1.0),
        capacity_per_s=1000.0,
    )
    plan = recovery_plan(bench, 1000.0)
    assert [segment.from_per_s for segment in plan.schedule] == [500.0, 2000.0, 500.0]
    longer = steps([500.0, 2000.0, 500.0, 500.0, 500.0], 5.0)
    plan = RunPlan(
        schedule=longer, window=Window(warm_up_s=0.5, duration_s=5.0), traffic=bench.traffic
    )
    samples = measure_virtually(plan, 0.001).samples
    # 1,000 ms of work wait, 0.5 ms of it is worked off each ms: the wait is below 50 ms after
    # (1,000 - 50) / 0.5 ms.
    assert recovery_s(samples, 2.5, plan) == pytest.approx(1.9, abs=0.05)


def test_a_run_that_ends_too_early_knows_no_recovery() -> None:
    traffic = Traffic(arrivals="constant", slo_ms=50.0)
    window = Window(warm_up_s=0.0, duration_s=2.0)
    plan = RunPlan(schedule=steps([2000.0, 500.0], 2.0), window=window, traffic=traffic)
    assert recovery_s(measure_virtually(plan, 0.001).samples, 1.0, plan) is None


def test_factors_out_of_range_are_one_line() -> None:
    with pytest.raises(BenchError, match=r"factors \[0\.0\]; expected shares from 0\.05 to 20"):
        OverloadBench(
            subject=SUBJECT,
            factors=[0.0],
            traffic=Traffic(),
            window=Window(),
            capacity_per_s=None,
        )


def test_switches_are_asked_for_on_time_and_after_the_warm_up() -> None:
    asked: list[int] = []
    switches = Switches(asked.append, every_s=5.0, warm_up_s=2.0)
    for passed_s in (1.0, 6.9, 7.1, 7.3, 11.9, 12.2):
        switches(passed_s)
    assert asked == [0, 1]
    assert switches.asked_s == pytest.approx([5.1, 10.2])


def test_windows_around_switches_are_pooled_and_counted_once() -> None:
    times_s = np.array([0.5, 3.9, 4.0, 5.0, 6.0, 6.1, 9.0])
    assert near(times_s, [5.0, 9.5]).tolist() == [False, False, True, True, True, False, True]
    assert covered_s([5.0, 9.5], 10.0) == pytest.approx(2.0 + 1.5)  # the run ends at 10 s
    assert covered_s([5.0, 5.5], 10.0) == pytest.approx(2.5)  # they overlap
    assert covered_s([], 10.0) == 0.0


def test_pooled_requests_count_from_when_they_were_meant_to_be_sent() -> None:
    recorder = Recorder(0.0)
    for n in range(30):
        recorder.add((n, n + 0.5, n + 0.75), OK, Answer())
    part = pooled(recorder.samples(), 3.0)
    assert part.latency_ms["p50"] == part.max_ms == pytest.approx(750.0)


def test_the_windows_of_a_reload_leave_the_warm_up_out() -> None:
    plan = RunPlan(rate_per_s=100.0, window=Window(warm_up_s=2.0, duration_s=4.0))
    measured = measure_virtually(plan, 0.001)
    run = replace(run_of(plan), version_changes_s=[0.5])  # half of the second before it is warm-up
    found = reload_findings(measured.samples, run, [0.4])
    counted = int((measured.samples.intended_s_R >= 2.0).sum())
    assert found["near"]["requests"] + found["far"]["requests"] == counted
    assert found["near"]["seconds"] == 1.5
    assert found["void"] is None
    assert reload_findings(measured.samples, run_of(plan), [0.4])["void"] == NONE_SEEN


def test_recovery_counts_from_when_requests_were_meant_to_be_sent() -> None:
    """Answered at once when they are sent, but sent 100 ms late: nothing is good again."""
    recorder = Recorder(0.0)
    for n in range(300):
        recorder.add((n / 100, n / 100 + 0.1, n / 100 + 0.101), OK, Answer())
    plan = RunPlan(rate_per_s=100.0, window=Window(warm_up_s=0.0, duration_s=3.0))
    assert recovery_s(recorder.samples(), 0.0, plan) is None


def test_a_rate_holds_only_in_a_run_that_counts_and_has_a_p99() -> None:
    window = Window(warm_up_s=0.0, duration_s=12.0)
    run = run_of(RunPlan(rate_per_s=100.0, window=window, traffic=Traffic(slo_ms=20.0)))
    assert holds(run)
    assert not holds(replace(run, void="the generator was late"))
    assert not holds(replace(run, latency_ms={**run.latency_ms, "p99": None}))
    assert not holds(replace(run, latency_ms={**run.latency_ms, "p99": 20.1}))


def test_a_report_is_void_with_any_run_that_it_counts() -> None:
    report = load_report()
    assert not report.void
    bad = replace(report.runs[0], void="the generator was late")
    assert replace(report, runs=[bad, *report.runs[1:]]).void
    # A run of a search, before those that confirm, decides nothing.
    searched = replace(report, runs=[bad, *report.runs[1:]], findings={"first_confirming_run": 1})
    assert not searched.void


def test_pooled_requests_count_their_failures() -> None:
    recorder = Recorder(0.0)
    for n in range(30):
        recorder.add((n, n, n + 0.010), OK, Answer())
    recorder.add((40, 40, 41), 14, Answer())
    part = pooled(recorder.samples(), 3.0)
    assert (part.requests, part.failed, part.seconds) == (31, 1, 3.0)
    assert part.latency_ms["p50"] == pytest.approx(10.0)
    assert part.max_ms == pytest.approx(10.0)
    for n in range(31):
        recorder.add((50 + n, 50 + n, 51 + n), 14, Answer())
    assert pooled(recorder.samples(), 3.0).latency_ms["p50"] is None  # half and more have failed


@pytest.mark.parametrize(
    ("between", "hook", "every_s", "message"),
    [
        ([], None, 5.0, "needs either two bundles"),
        (["a"], None, 5.0, "needs either two bundles"),
        (["a", "b"], "x", 5.0, "needs either two bundles"),
        (["a", "b"], None, 60.0, "every-s is 60; expected 0.5 to less than the duration, 10"),
    ],
)
def test_a_reload_that_cannot_be_is_one_line(
    between: list[str], hook: str | None, every_s: float, message: str
) -> None:
    plan = RunPlan(rate_per_s=10, window=Window())
    with pytest.raises(BenchError, match=message):
        ReloadBench(subject=SUBJECT, plan=plan, every_s=every_s, between=between, hook=hook)
