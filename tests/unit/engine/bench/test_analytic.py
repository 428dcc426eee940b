"""The whole way from arrivals to percentiles, against answers that are known exactly.

Real loops, recorder and summary; time is virtual, so nothing but they can be wrong.
"""

import math

import numpy as np
import pytest
from support.queue_in_virtual_time import measure_virtually, stalled

from mmsr.engine.bench.exchange import Outcome
from mmsr.engine.bench.load import Measured
from mmsr.engine.bench.plan import RunPlan, Traffic, Window
from mmsr.engine.bench.summary import RunSummary, summarise

SERVICE_S = 0.001
PERIOD_S, STALL_S = 10.0, 1.0
RATE_PER_S = 500.0


def summary_of(plan: RunPlan, measured: Measured) -> RunSummary:
    outcome = Outcome(
        sent_for_s=measured.sent_for_s,
        cpu_s=measured.cpu_s,
        interrupted=False,
        event_loop="virtual",
        model_versions=["v"],
        first_details={},
    )
    return summarise(plan, outcome, measured.samples)


def waiting_time_cdf(wait_s: float, load: float) -> float:
    """Erlang's formula for M/D/1: the share of requests that wait at most `wait_s`.

    Erlang (1909); Tijms, A First Course in Stochastic Models (2003), eq. 9.6.16.
    """
    rate = load / SERVICE_S
    total = 0.0
    for n in range(math.floor(wait_s / SERVICE_S + 1e-9) + 1):
        x = rate * (n * SERVICE_S - wait_s)
        total += math.exp(-x) * x**n / math.factorial(n)
    return (1 - load) * total


def analytic_quantile_s(p: float, load: float) -> float:
    """Invert the distribution by bisection."""
    low, high = 0.0, 60 * SERVICE_S
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if waiting_time_cdf(middle, load) < p else (low, middle)
    return high


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_a_queue_of_one_worker_waits_as_pollaczek_and_khinchine_say(load: float) -> None:
    window = Window(warm_up_s=1.0, duration_s=40.0, seed=4)
    plan = RunPlan(rate_per_s=load / SERVICE_S, window=window)
    measured = measure_virtually(plan, SERVICE_S)
    counted = measured.samples.pick(measured.samples.intended_s_R >= window.warm_up_s)
    wait_s_R = counted.done_s_R - counted.intended_s_R - SERVICE_S

    mean_s = load * SERVICE_S / (2 * (1 - load))  # Pollaczek-Khinchine, service without variance
    assert wait_s_R.mean() == pytest.approx(mean_s, rel=0.05)
    summary = summary_of(plan, measured)
    for p in (0.9, 0.99):
        expected_ms = (analytic_quantile_s(p, load) + SERVICE_S) * 1e3
        name = f"p{p * 100:.0f}"
        assert summary.latency_ms[name] == pytest.approx(expected_ms, rel=0.05)
        bounds = summary.latency_intervals[name]
        assert bounds is not None
        low, high = bounds
        assert high is not None
        assert low * 0.99 <= expected_ms <= high * 1.01
    assert summary.void is None
    assert summary.lag_ms == {"p50": 0.0, "p90": 0.0, "p99": 0.0}


def analytic_stall_quantile_ms(p: float) -> float:
    """Return the p-quantile where a second in ten stalls, of requests that take no time else.

    Who arrives t before the stall's end waits t: a tenth of all waits, evenly from 0 to 1 s. The
    queue that has gathered is then served at once (500 requests of 0 s).
    """
    share = STALL_S / PERIOD_S
    return STALL_S * 1e3 * max(0.0, 1 - (1 - p) / share)


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_the_open_loop_sees_every_wait_of_a_stall(arrivals: str) -> None:
    window = Window(warm_up_s=PERIOD_S, duration_s=5 * PERIOD_S, seed=1)
    plan = RunPlan(rate_per_s=RATE_PER_S, window=window, traffic=Traffic(arrivals=arrivals))
    summary = summary_of(plan, measure_virtually(plan, 0.0, stalled(PERIOD_S, STALL_S)))
    expected_ms = analytic_stall_quantile_ms(0.99)
    assert expected_ms == pytest.approx(900.0)
    assert summary.latency_ms["p99"] == pytest.approx(expected_ms, rel=0.10)
    # 50 of the 1,000 ms of waits are within 50 ms: those, and the nine seconds without a stall.
    assert summary.goodput_per_s == pytest.approx(RATE_PER_S * (0.9 + 0.1 * 0.05), rel=0.02)


def test_the_closed_loop_misses_the_same_stall() -> None:
    window = Window(warm_up_s=PERIOD_S, duration_s=2 * PERIOD_S)
    plan = RunPlan(concurrency=4, window=window)
    # As many callers as keep it at about 500 requests a second, when it answers in 8 ms.
    summary = summary_of(plan, measure_virtually(plan, 0.002, stalled(PERIOD_S, STALL_S)))
    assert summary.requests / summary.measured_s == pytest.approx(RATE_PER_S, rel=0.15)
    assert summary.latency_ms["p99"] == pytest.approx(8.0, rel=0.05)  # and not 900
    assert summary.max_latency_ms == pytest.approx(1000.0, rel=0.05)  # 4 of 9,000 waited


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """95 % intervals of the median miss it now and then, and not in a third of the runs."""
    slower = 8  # a service of 8 ms: waits that hang together over many requests
    waits_s = (n * SERVICE_S / 100 for n in range(2000))
    median_s = next(w for w in waits_s if waiting_time_cdf(w, 0.8) >= 0.5) + SERVICE_S
    misses = 0
    for seed in range(24):
        plan = RunPlan(rate_per_s=100, window=Window(warm_up_s=0, duration_s=16, seed=seed))
        measured = measure_virtually(plan, SERVICE_S * slower)
        bounds = summary_of(plan, measured).latency_intervals["p50"]
        assert bounds is not None
        low, high = bounds
        assert high is not None
        misses += not low <= median_s * slower * 1e3 <= high
    assert misses <= 6


def test_erlangs_formula_is_a_distribution() -> None:
    at = [waiting_time_cdf(w * SERVICE_S, 0.6) for w in (0, 1, 5, 10)]
    assert at[0] == pytest.approx(0.4)  # who finds the server idle: 1 - load
    assert np.all(np.diff(at) > 0)
    assert at[-1] == pytest.approx(1.0, abs=1e-3)
