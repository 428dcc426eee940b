"""From samples made by hand to the numbers of a report."""

from dataclasses import replace

import numpy as np
import pytest

from mmsr.engine.bench.exchange import Outcome
from mmsr.engine.bench.histograms import bins
from mmsr.engine.bench.plan import RunPlan, Traffic, Window
from mmsr.engine.bench.processes import Reading
from mmsr.engine.bench.samples import OK, UNFINISHED, UNSENT, Answer, Recorder, Samples
from mmsr.engine.bench.summary import summarise

WINDOW = Window(warm_up_s=1.0, duration_s=2.0)
OPEN = RunPlan(rate_per_s=100, window=WINDOW)
CLOSED = RunPlan(concurrency=4, window=WINDOW)
OUTCOME = Outcome(
    sent_for_s=3.0,
    cpu_s=0.3,
    interrupted=False,
    event_loop="uvloop",
    model_versions=["v"],
    first_details={},
)
START_S = 1000.0  # recorders count from the run's start, whatever the clock says


def samples_of(*rows: tuple[float, float, float, int, Answer]) -> Samples:
    """Rows of intended, sent and done seconds, status and answer."""
    recorder = Recorder(START_S)
    for intended_s, sent_s, done_s, status, answer in rows:
        times_s = (START_S + intended_s, START_S + sent_s, START_S + done_s)
        recorder.add(times_s, status, answer)
    return recorder.samples()


def steady(
    count: int, latency_s: float, lag_s: float = 0.0, answer: Answer | None = None
) -> Samples:
    """`count` answered requests, evenly over the three seconds."""
    answer = answer or Answer(10, 20, 1, 0)
    times_s = np.linspace(0, 3, count, endpoint=False).tolist()
    return samples_of(*((t, t + lag_s, t + latency_s, OK, answer) for t in times_s))


def test_the_warm_up_does_not_count() -> None:
    answer = Answer(1, 1, 1, 0)
    slow = [(t, t, t + 0.9, OK, answer) for t in (0.0, 0.5, 0.999)]
    fast = [(1 + t / 50, 1 + t / 50, 1 + t / 50 + 0.002, OK, answer) for t in range(50)]
    summary = summarise(CLOSED, OUTCOME, samples_of(*slow, *fast))
    assert summary.warm_up_requests == 3
    assert summary.requests == summary.answered == 50
    assert summary.latency_ms["p50"] == pytest.approx(2.0)
    assert summary.max_latency_ms == pytest.approx(2.0)


def test_latency_counts_from_the_intended_time() -> None:
    summary = summarise(OPEN, OUTCOME, steady(600, latency_s=0.050, lag_s=0.004))
    assert summary.latency_ms["p50"] == pytest.approx(50.0)
    assert summary.lag_ms is not None
    assert summary.lag_ms["p50"] == pytest.approx(4.0)
    assert summary.void is None


def test_what_intervals_and_goodput_are_made_of_counts_from_the_intended_time_too() -> None:
    """Sent 4 ms late and answered 6 ms later: 10 ms, too long for a limit of 8."""
    plan = replace(OPEN, traffic=Traffic(slo_ms=8.0))
    summary = summarise(plan, OUTCOME, steady(600, latency_s=0.010, lag_s=0.004))
    assert summary.goodput_per_s == 0.0
    values_V, _ = bins(summary.histogram)
    assert values_V == pytest.approx([10.0], rel=0.002)
    assert all(block.p50_ms == pytest.approx(10.0) for block in summary.blocks)
    assert summary.latency_intervals["p50"] == pytest.approx((10.0, 10.0), rel=0.002)


def test_a_late_generator_is_marked() -> None:
    summary = summarise(OPEN, OUTCOME, steady(600, latency_s=0.050, lag_s=0.006))
    assert summary.void is not None
    assert "median lag 6.00 ms, allowed 5.00 ms" in summary.void


def test_a_closed_loop_has_no_lag_and_no_intended_rate() -> None:
    summary = summarise(CLOSED, OUTCOME, steady(600, latency_s=0.010))
    assert (summary.lag_ms, summary.intended_per_s, summary.void) == (None, None, None)


def test_failures_are_counted_by_status_and_slower_than_every_answer() -> None:
    ok = [
        (1 + t / 100, 1 + t / 100, 1 + t / 100 + 0.001, OK, Answer(1, 1, 1, 0)) for t in range(100)
    ]
    failed = [(1.5, 1.5, 2.9, status, Answer()) for status in (8, 8, 1, 14, UNFINISHED)]
    outcome = replace(OUTCOME, first_details={"RESOURCE_EXHAUSTED": "full"})
    summary = summarise(OPEN, outcome, samples_of(*ok, *failed))
    assert summary.errors == {"UNAVAILABLE": 1, "UNFINISHED": 1}
    assert summary.refusals == {"CANCELLED": 1, "RESOURCE_EXHAUSTED": 2}
    assert summary.failed == 5
    assert summary.answered == 100
    assert summary.requests == 105
    assert summary.latency_ms == {"p50": pytest.approx(1.0), "p90": pytest.approx(1.0), "p99": None}
    assert summary.max_latency_ms is None


def test_a_server_that_answers_every_second_request_has_no_p90() -> None:
    rows = [
        (1 + t / 1000, 1 + t / 1000, 1 + t / 1000 + 0.001, (OK, 8)[t % 2], Answer(1, 1, 1, 0))
        for t in range(1999)
    ]
    summary = summarise(OPEN, OUTCOME, samples_of(*rows))
    assert summary.latency_ms == {"p50": pytest.approx(1.0), "p90": None, "p99": None}


def test_a_headline_has_percentiles_from_mlperfs_counts_on_only() -> None:
    plan = replace(OPEN, traffic=Traffic(headline=True))
    summary = summarise(plan, OUTCOME, steady(6000, latency_s=0.010))
    assert summary.latency_ms == {"p50": pytest.approx(10.0), "p90": None, "p99": None}
    assert summary.latency_intervals["p99"] is None
    assert summarise(OPEN, OUTCOME, steady(6000, latency_s=0.010)).latency_ms["p99"] is not None


def test_few_refusals_have_no_percentile() -> None:
    refused = [(1 + n / 100, 1 + n / 100, 1 + n / 100 + 0.001, 8, Answer()) for n in range(19)]
    ok = (1.0, 1.0, 1.1, OK, Answer(1, 1, 1, 0))
    assert summarise(OPEN, OUTCOME, samples_of(ok, *refused)).refusal_ms["p50"] is None
    twenty = [*refused, (1.5, 1.6, 1.602, 8, Answer())]
    found = summarise(OPEN, OUTCOME, samples_of(ok, *twenty)).refusal_ms["p50"]
    assert found == pytest.approx(1.0)  # from the sending: how fast the server says no


def test_rates_are_of_the_measured_time() -> None:
    summary = summarise(OPEN, OUTCOME, steady(600, latency_s=0.1))
    assert summary.measured_s == 2.0
    assert summary.intended_per_s == 200.0
    # Answers of the warm-up's last tenth of a second fall in, those of the end fall out.
    assert summary.answered_per_s == 200.0


def test_an_interrupted_run_is_measured_as_far_as_it_came() -> None:
    outcome = replace(OUTCOME, sent_for_s=2.0, interrupted=True)
    half = steady(600, latency_s=0.0)
    summary = summarise(OPEN, outcome, half.pick(half.intended_s_R < 2.0))
    assert summary.measured_s == 1.0
    assert summary.answered_per_s == pytest.approx(200.0)
    assert summary.interrupted


def test_a_run_interrupted_in_the_warm_up_has_no_numbers() -> None:
    outcome = replace(OUTCOME, sent_for_s=0.5, interrupted=True)
    early = steady(600, latency_s=0.0)
    summary = summarise(OPEN, outcome, early.pick(early.intended_s_R < 0.5))
    assert (summary.measured_s, summary.answered, summary.answered_per_s) == (0.0, 0, 0.0)
    assert summary.latency_ms == {"p50": None, "p90": None, "p99": None}
    assert summary.max_latency_ms is None


def test_requests_that_were_never_sent_void_the_run() -> None:
    good = steady(600, latency_s=0.010)
    times_s = [(2.9, 3.2, 3.2, UNSENT, Answer())]
    rows = [
        (i, s, d, OK, Answer(1, 1, 1, 0))
        for i, s, d in zip(
            good.intended_s_R.tolist(), good.sent_s_R.tolist(), good.done_s_R.tolist(), strict=True
        )
    ]
    summary = summarise(OPEN, OUTCOME, samples_of(*rows, *times_s))
    assert summary.void == "the generator could not send 1 of 401 requests in time"


def test_each_computation_counts_once() -> None:
    alone = [(1.1, 1.1, 1.2, OK, Answer(5, 7, 1, 0))] * 30
    in_threes = [(1.3, 1.3, 1.4, OK, Answer(9, 11, 3, 0))] * 90
    summary = summarise(CLOSED, OUTCOME, samples_of(*alone, *in_threes))
    assert summary.server.batch_size == pytest.approx((30 * 1 + 90 * 3) / 120)
    assert summary.server.batches_per_s == pytest.approx((30 + 30) / 2.0)
    assert (summary.server.queue_us, summary.server.compute_us) == (9.0, 11.0)


def test_fallbacks_are_counted_and_have_no_batch() -> None:
    popular = [(1.1, 1.1, 1.2, OK, Answer(0, 0, 0, 1))] * 25
    summary = summarise(CLOSED, OUTCOME, samples_of(*popular))
    assert summary.fallbacks == summary.answered == 25
    assert (summary.server.batch_size, summary.server.queue_us) == (None, None)
    assert summary.void is not None
    assert summary.void.startswith("25 answers were the popularity fallback")


def test_the_generators_own_cost_is_per_request() -> None:
    summary = summarise(CLOSED, OUTCOME, steady(600, latency_s=0.01))
    assert summary.generator_cpu_us == pytest.approx(0.3e6 / 600)


def test_goodput_counts_answers_within_the_slo_alone() -> None:
    plan = replace(OPEN, traffic=Traffic(slo_ms=5.0))
    in_time = [(1.0 + t / 100, 1 + t / 100, 1 + t / 100 + 0.004, OK, Answer()) for t in range(200)]
    late = [(1.0 + t / 100, 1 + t / 100, 1 + t / 100 + 0.006, OK, Answer()) for t in range(200)]
    summary = summarise(plan, OUTCOME, samples_of(*in_time, *late))
    assert summary.answered == 400
    assert summary.goodput_per_s == pytest.approx(100.0)
    assert summary.goodput_interval == pytest.approx((100.0, 100.0))


def test_a_deadline_told_at_once_is_a_refusal_and_one_waited_for_an_error() -> None:
    plan = replace(OPEN, window=replace(WINDOW, deadline_ms=100))
    told = [(1.5, 1.5, 1.502, 4, Answer())] * 30  # 4: DEADLINE_EXCEEDED
    waited = [(1.5, 1.5, 1.6, 4, Answer())] * 2
    summary = summarise(plan, OUTCOME, samples_of(*told, *waited))
    assert summary.refusals == {"DEADLINE_EXCEEDED": 30}
    assert summary.errors == {"DEADLINE_EXCEEDED": 2}
    assert summary.refusal_ms["p50"] == pytest.approx(2.0)


def test_blocks_and_histogram_hold_every_counted_request() -> None:
    summary = summarise(OPEN, OUTCOME, steady(600, latency_s=0.050))
    assert [(block.start_s, block.requests) for block in summary.blocks] == [(0, 200), (1, 200)]
    values_V, counts_V = bins(summary.histogram)
    assert counts_V.sum() == 400
    assert values_V == pytest.approx([50.0], rel=1e-3)
    assert summary.latency_intervals["p50"] == pytest.approx((50.0, 50.0), rel=1e-3)
    assert summary.latency_intervals["p99"] is None  # as there is no p99 of 400 requests


def test_a_switch_of_the_model_is_seen_once_though_answers_overtake_each_other() -> None:
    versions = [(1.0, 1), (1.5, 1), (2.0, 2), (2.001, 1), (2.002, 2), (2.9, 2), (4.5, 1)]
    rows = [(t, t, t, OK, Answer(version=version)) for t, version in versions]
    failed = [(1.7, 1.7, 1.7, 14, Answer())]
    summary = summarise(OPEN, replace(OUTCOME, sent_for_s=5.0), samples_of(*rows, *failed))
    assert summary.version_changes_s == [1.0, 3.5]  # since the warm-up's end


def test_the_generators_cost_stands_beside_the_servers() -> None:
    readings = [
        Reading(at_s=0.0, cpu_s=1.0, memory_mib=90.0),
        Reading(at_s=3.0, cpu_s=1.6, memory_mib=100.0),
    ]
    summary = summarise(CLOSED, OUTCOME, steady(600, latency_s=0.01), readings)
    assert summary.process is not None
    assert summary.process.cpu_us == pytest.approx(1000.0)
    assert summary.cpu_ratio == pytest.approx(0.5)
    assert summarise(CLOSED, OUTCOME, steady(600, latency_s=0.01)).cpu_ratio is None


def test_batches_are_counted_by_size() -> None:
    rows = [(1.1, 1.1, 1.2, OK, Answer(5, 7, 4, 0))] * 80 + [
        (1.1, 1.1, 1.2, OK, Answer(5, 7, 1))
    ] * 9
    summary = summarise(CLOSED, OUTCOME, samples_of(*rows))
    assert summary.server.batch_sizes == {"1": 9.0, "4": 20.0}
