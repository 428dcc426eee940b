"""Seconds as blocks, histograms in base64, and intervals from blocks drawn anew."""

import numpy as np
import pytest

from mmsr.engine.bench.blocks import Block, block_starts, count_blocks, cut, interval
from mmsr.engine.bench.histograms import bins, encode, merge
from mmsr.engine.bench.latency import quantile


def block_of(latency_ms: list[float], failed: int = 0, good: int = 0) -> Block:
    return Block(
        start_s=0.0,
        seconds=1.0,
        requests=len(latency_ms) + failed,
        answered=len(latency_ms),
        good=good,
        refused=0,
        p50_ms=None,
        p99_ms=None,
        histogram=encode(np.array(latency_ms)),
    )


def test_a_histogram_keeps_three_digits_of_every_value() -> None:
    latency_ms = np.random.default_rng(0).lognormal(1.0, 2.0, 5000)
    values_V, counts_V = bins(encode(latency_ms))
    assert counts_V.sum() == 5000
    back = np.sort(np.repeat(values_V, counts_V))
    assert back == pytest.approx(np.sort(latency_ms), rel=2e-3, abs=1e-3)


def test_histograms_merge_as_their_requests_would() -> None:
    parts = [np.random.default_rng(n).exponential(5.0, 300) for n in range(3)]
    merged = merge([encode(part) for part in parts] + [encode(np.empty(0))])
    whole = encode(np.concatenate(parts))
    for one, other in zip(bins(merged), bins(whole), strict=True):
        assert np.array_equal(one, other)


def test_no_latency_is_an_empty_text() -> None:
    assert encode(np.empty(0)) == merge([]) == ""
    assert len(bins("")[0]) == 0


def test_other_tools_can_read_it() -> None:
    """The V2 format begins with its cookie, compressed: "HISTFAAAA" in base64."""
    assert encode(np.array([1.0])).startswith("HISTFAAAA")


@pytest.mark.parametrize(
    ("duration_s", "starts"),
    [(0.4, [(0, 0.4)]), (3.0, [(0, 1), (1, 1), (2, 1)]), (2.5, [(0, 1), (1, 1.5)])],
)
def test_what_is_left_of_a_second_belongs_to_the_one_before(
    duration_s: float, starts: list[tuple[float, float]]
) -> None:
    assert [tuple(block) for block in block_starts(duration_s)] == starts
    times_s = np.arange(0.0, duration_s, 0.1)
    masks = cut(times_s, duration_s)
    assert len(masks) == len(starts)
    assert np.sum(masks, axis=0).tolist() == [1] * len(times_s)


def test_quantiles_of_blocks_are_those_of_their_requests() -> None:
    random = np.random.default_rng(3)
    parts = [random.exponential(10.0, 200) for _ in range(5)]
    counted = count_blocks([block_of(part.tolist()) for part in parts])
    for p in (0.5, 0.9, 0.99):
        (found,) = counted.quantiles(counted.as_measured, p)
        assert found == pytest.approx(quantile(np.concatenate(parts), p), rel=2e-3)


def test_failed_requests_are_slower_than_every_answer() -> None:
    counted = count_blocks([block_of([1.0] * 90, failed=10)])
    assert counted.quantiles(counted.as_measured, 0.9).tolist() == pytest.approx([1.0], rel=1e-3)
    assert np.isinf(counted.quantiles(counted.as_measured, 0.91)).all()


def test_goodput_is_good_answers_over_time() -> None:
    counted = count_blocks([block_of([1.0] * 4, good=4), block_of([9.0] * 4, good=0)])
    assert counted.goodput(counted.as_measured).tolist() == [2.0]
    assert counted.rates(counted.as_measured).tolist() == [4.0]


def test_equal_seconds_have_a_narrow_interval_and_unequal_ones_a_wide_one() -> None:
    equal = count_blocks([block_of([5.0] * 50)] * 20)
    assert interval(equal, equal.rates) == (50.0, 50.0)
    unequal = count_blocks([block_of([5.0] * (100 * (n % 2) + 1)) for n in range(20)])
    bounds = interval(unequal, unequal.rates)
    assert bounds is not None
    low, high = bounds
    assert high is not None
    # The mean of 20 draws of 1 or 101 has a standard error of 50 / sqrt(20) = 11.
    assert high - low == pytest.approx(2 * 1.96 * 11.2, rel=0.15)


def test_one_block_has_no_interval() -> None:
    counted = count_blocks([block_of([5.0] * 50)])
    assert interval(counted, counted.rates) is None


def test_an_interval_may_reach_into_the_failed() -> None:
    blocks = [block_of([1.0] * 100)] * 9 + [block_of([1.0] * 50, failed=50)]
    counted = count_blocks(blocks)
    bounds = interval(counted, lambda weights: counted.quantiles(weights, 0.96))
    assert bounds is not None
    assert bounds[0] == pytest.approx(1.0, rel=1e-3)
    assert bounds[1] is None


def test_a_long_run_is_drawn_from_in_bounded_memory() -> None:
    hour = [block_of([float(1 + n % 7)], failed=n % 2, good=1) for n in range(3600)]
    counted = count_blocks(hour)
    assert len(counted.failed_B) == len(counted.counts_BV) == 600
    assert counted.seconds_B.tolist() == [6.0] * 600
    assert (counted.counts_BV.sum(), counted.failed_B.sum()) == (3600, 1800)
    assert counted.goodput(counted.as_measured).tolist() == [1.0]
