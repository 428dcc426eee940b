"""Poisson arrivals: the mean rate, exponential gaps, the seed."""

import numpy as np

from mmsr.engine.bench.arrivals import poisson_arrivals_s

RATE_PER_S, TOTAL_S = 500.0, 200.0


def test_arrivals_have_the_rate_asked_for() -> None:
    expected = RATE_PER_S * TOTAL_S
    arrivals_s = poisson_arrivals_s(RATE_PER_S, TOTAL_S, seed=1)
    assert abs(len(arrivals_s) - expected) < 4 * np.sqrt(expected)  # s.d. of a Poisson count
    assert arrivals_s.min() >= 0
    assert arrivals_s.max() < TOTAL_S


def test_gaps_are_exponential() -> None:
    gaps_s = np.sort(np.diff(poisson_arrivals_s(RATE_PER_S, TOTAL_S, seed=2)))
    empirical = (np.arange(len(gaps_s)) + 0.5) / len(gaps_s)
    distance = np.abs(empirical - (1 - np.exp(-RATE_PER_S * gaps_s))).max()
    # Kolmogorov-Smirnov: above this by chance once in 1,000 seeds.
    assert distance < 1.95 / np.sqrt(len(gaps_s))


def test_counts_of_seconds_vary_as_a_poisson_process_does() -> None:
    arrivals_s = poisson_arrivals_s(RATE_PER_S, TOTAL_S, seed=3)
    counts = np.histogram(arrivals_s, bins=int(TOTAL_S), range=(0, TOTAL_S))[0]
    assert 0.6 < counts.var() / counts.mean() < 1.5  # 1 for Poisson, 0 for a constant rate


def test_the_seed_decides_the_arrivals() -> None:
    one, same, other = (poisson_arrivals_s(50, 2, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one[:10], other[:10])
