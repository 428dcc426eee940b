"""Rates that change, constant arrivals, arrivals dealt out to processes, which history comes."""

from collections import Counter

import numpy as np
import pytest

from mmsr.engine.bench.arrivals import arrival_times_s, history_order, part_of, share_of
from mmsr.engine.bench.schedule import Segment, expected_requests, ramp, steps, times_of


def test_a_ramp_reaches_its_counts_when_its_integral_does() -> None:
    segments = (*steps([50.0], 2.0), *ramp(50.0, 150.0, 10.0))
    assert expected_requests(segments) == 1100.0
    counts = np.array([0.0, 50.0, 100.0, 100.0 + 50 * 4 + 5 * 16, 1100.0])
    assert times_of(segments, counts) == pytest.approx([0.0, 1.0, 2.0, 6.0, 12.0])


def test_a_rate_may_fall_to_almost_nothing() -> None:
    (segment,) = ramp(100.0, 0.01, 4.0)
    times = times_of([segment], np.linspace(0, segment.expected, 50))
    assert np.all(np.diff(times) > 0)
    assert times[-1] == pytest.approx(4.0, abs=1e-3)


def test_constant_arrivals_are_evenly_spaced() -> None:
    times_s = arrival_times_s(steps([40.0], 2.0), "constant", seed=0)
    assert len(times_s) == 80
    assert np.diff(times_s) == pytest.approx(0.025)


def test_a_steps_poisson_arrivals_follow_its_rates() -> None:
    times_s = arrival_times_s(steps([100.0, 900.0, 300.0], 60.0), "poisson", seed=1)
    counts = np.histogram(times_s, bins=3, range=(0, 60))[0]
    for count, expected in zip(counts.tolist(), (2000, 18000, 6000), strict=True):
        assert abs(count - expected) < 4 * np.sqrt(expected)


def test_processes_share_the_arrivals_and_each_share_is_poisson() -> None:
    rate_per_s, total_s = 600.0, 100.0
    times_s = arrival_times_s(steps([rate_per_s], total_s), "poisson", seed=2)
    shares = [share_of(len(times_s), rank, 3, seed=2) for rank in range(3)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(times_s)))
    for share in shares:
        gaps_s = np.sort(np.diff(times_s[share]))
        empirical = (np.arange(len(gaps_s)) + 0.5) / len(gaps_s)
        distance = np.abs(empirical - (1 - np.exp(-rate_per_s / 3 * gaps_s))).max()
        assert distance < 1.95 / np.sqrt(len(gaps_s))  # Kolmogorov-Smirnov, one in 1,000


def test_callers_are_dealt_out_evenly() -> None:
    assert [part_of(16, rank, 3) for rank in range(3)] == [6, 5, 5]
    assert [part_of(2, rank, 3) for rank in range(3)] == [1, 1, 0]


def test_histories_come_in_order_evenly_or_by_zipf() -> None:
    assert history_order(5, 3, "in-order", seed=0).tolist() == [0, 1, 2, 0, 1]
    uniform = Counter(history_order(30_000, 3, "uniform", seed=0).tolist())
    assert all(abs(count - 10_000) < 400 for count in uniform.values())
    zipf = Counter(history_order(30_000, 100, "zipf", seed=0).tolist())
    assert zipf[0] / zipf[9] == pytest.approx(10, rel=0.15)


def test_a_segment_expects_its_area() -> None:
    assert Segment(seconds=2.0, from_per_s=10.0, to_per_s=30.0).expected == 40.0
