"""Percentiles against brute force, the sample-count rule, and the rule that voids a run."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsr.engine.bench.latency import (
    needed_samples,
    percentile,
    percentiles,
    quantile,
    void_reason,
)


def brute_force_quantile(values: list[float], p: float) -> float:
    """The smallest value that at least a share p of all values do not exceed."""
    return min(
        v for v in values if sum(other <= v for other in values) >= math.ceil(p * len(values))
    )


@given(
    values=st.lists(st.integers(0, 50).map(float), min_size=1, max_size=60),
    percent=st.sampled_from([50, 90, 99]),
)
def test_a_quantile_is_what_counting_gives(values: list[float], percent: int) -> None:
    count = -(-percent * len(values) // 100)  # in whole numbers: 0.99 * 100 is not exact
    expected = sorted(values)[count - 1]
    assert quantile(np.array(values), percent / 100) == expected


def test_a_quantile_is_a_value_that_was_measured() -> None:
    values = [1.0, 2.0, 100.0]
    assert quantile(np.array(values), 0.5) == brute_force_quantile(values, 0.5) == 2.0


@pytest.mark.parametrize(("p", "needed"), [(0.5, 20), (0.9, 100), (0.99, 1000), (0.999, 10000)])
def test_a_percentile_needs_ten_samples_beyond_it(p: float, needed: int) -> None:
    assert needed_samples(p) == needed
    assert percentile(np.ones(needed - 1), p) is None
    assert percentile(np.ones(needed), p) == 1.0


def test_each_percentile_comes_from_its_own_count_on() -> None:
    assert percentiles(np.arange(150.0)) == {"p50": 74.0, "p90": 134.0, "p99": None}


def test_a_failed_request_is_slower_than_every_answer() -> None:
    answered = np.arange(900.0)
    assert percentiles(answered, failed=100) == {"p50": 499.0, "p90": 899.0, "p99": None}
    assert percentiles(answered, failed=101) == {"p50": 500.0, "p90": None, "p99": None}
    assert percentiles(np.arange(10.0), failed=90) == {"p50": None, "p90": None, "p99": None}
    assert percentiles(np.array([]), failed=5000) == {"p50": None, "p90": None, "p99": None}


def test_failed_requests_are_samples_too() -> None:
    assert percentile(np.ones(999), 0.99) is None
    assert percentile(np.ones(999), 0.99, failed=1) == 1.0


def lag(median_ms: float, tail_ms: float) -> np.ndarray:
    """1,000 lags: two in a hundred are `tail_ms`, the others `median_ms`."""
    return np.where(np.arange(1000) % 50 == 0, tail_ms, median_ms)


@pytest.mark.parametrize(
    ("latency_ms", "median_ms", "tail_ms", "word"),
    [
        (10.0, 1.0, 2.0, None),  # just inside both limits
        (10.0, 1.01, 2.0, "median"),
        (10.0, 0.5, 2.6, "p99"),  # 25 % of 10 ms is 2.5 ms
        (4.0, 0.1, 2.0, None),  # 25 % of 4 ms is less than the floor of 2 ms
        (4.0, 0.1, 2.1, "p99"),
        (100.0, 1.0, 24.0, None),
    ],
)
def test_a_late_generator_voids_the_run(
    latency_ms: float, median_ms: float, tail_ms: float, word: str | None
) -> None:
    reason = void_reason(np.full(1000, latency_ms), lag(median_ms, tail_ms))
    assert (reason is None) if word is None else (reason is not None and f"{word} lag" in reason)


def test_a_short_run_does_not_escape_the_rule() -> None:
    assert void_reason(np.full(3, 1.0), np.full(3, 0.2)) is not None


def test_a_run_without_answers_is_not_judged_by_lag() -> None:
    assert void_reason(np.array([]), np.array([1.0])) is None


def test_a_headline_needs_mlperfs_counts() -> None:
    assert [needed_samples(p, headline=True) for p in (0.5, 0.9, 0.99)] == [20, 24_576, 270_336]
    assert percentiles(np.ones(270_335), headline=True) == {"p50": 1.0, "p90": 1.0, "p99": None}
    assert percentile(np.ones(270_336), 0.99, headline=True) == 1.0
