"""Bootstrap intervals beside what can be worked out on paper."""

import math
import time

import numpy as np
import pytest

from mmsr.training.statistics import average_over_seeds, mean_and_deviation, paired_interval


def binomial_quantile(users: int, chance: float, share: float) -> int:
    """Return the least k with P(Binomial(users, chance) <= k) >= share."""
    total = 0.0
    for k in range(users + 1):
        total += math.comb(users, k) * chance**k * (1 - chance) ** (users - k)
        if total >= share:
            return k
    raise AssertionError


@pytest.mark.parametrize(("users", "ones"), [(50, 10), (200, 30), (400, 200)])
def test_of_zeros_and_ones_it_is_the_binomial_interval(users: int, ones: int) -> None:
    a = np.zeros(users)
    a[:ones] = 1.0
    low, high = paired_interval(a, np.zeros(users))
    chance = ones / users
    # The quantile of 10,000 draws may fall on the neighbour of the true one.
    assert abs(low * users - binomial_quantile(users, chance, 0.025)) <= 1
    assert abs(high * users - binomial_quantile(users, chance, 0.975)) <= 1


def test_of_many_different_values_it_is_the_normal_interval() -> None:
    random = np.random.default_rng(5)
    a, b = random.normal(0.3, 1.0, 3000), random.normal(0.0, 1.0, 3000)
    low, high = paired_interval(a, b, resamples=4000)
    error = (a - b).std() / math.sqrt(3000)
    assert math.isclose(low, (a - b).mean() - 1.96 * error, abs_tol=0.08 * error)
    assert math.isclose(high, (a - b).mean() + 1.96 * error, abs_tol=0.08 * error)


def test_it_is_paired() -> None:
    random = np.random.default_rng(1)
    b = random.normal(0.0, 100.0, 500)
    low, high = paired_interval(b + 0.01, b)
    assert math.isclose(low, 0.01, rel_tol=1e-6)
    assert math.isclose(high, 0.01, rel_tol=1e-6)


def test_without_any_difference_it_is_nothing_wide() -> None:
    assert paired_interval(np.ones(5), np.ones(5)) == (0.0, 0.0)


def test_the_same_seed_gives_the_same_interval_and_another_nearly_so() -> None:
    random = np.random.default_rng(2)
    a, b = random.random(300), random.random(300)
    assert paired_interval(a, b, 7) == paired_interval(a, b, 7)
    one, other = paired_interval(a, b, 7), paired_interval(a, b, 8)
    assert one != other
    assert np.allclose(one, other, atol=0.01)


def test_turning_the_pair_round_turns_the_interval_round() -> None:
    random = np.random.default_rng(3)
    a, b = random.random(400), random.random(400)
    low, high = paired_interval(a, b)
    turned_low, turned_high = paired_interval(b, a)
    assert np.allclose((-turned_high, -turned_low), (low, high), atol=0.002)


def test_values_in_several_chunks_are_as_good_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    a, b = random.random(200), random.random(200)
    whole = paired_interval(a, b)
    monkeypatch.setattr("mmsr.training.statistics.CHUNK_DRAWS", 200 * 300)
    assert np.allclose(paired_interval(a, b), whole, atol=0.003)


def test_ten_thousand_resamples_of_many_users_cost_little() -> None:
    random = np.random.default_rng(6)
    ranks = random.integers(1, 200, (3, 20_000))
    a = np.where(ranks <= 10, 1 / np.log2(ranks + 1.0), 0.0)
    began = time.process_time()
    paired_interval(a.mean(0), np.zeros(20_000))
    assert time.process_time() - began < 5  # measured: 0.4 s


def test_different_users_are_no_pairs() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\)"):
        paired_interval(np.zeros(3), np.zeros(4))


def test_seeds_are_averaged_user_by_user() -> None:
    average = average_over_seeds([np.array([0.0, 1.0]), np.array([1.0, 1.0])])
    assert average.tolist() == [0.5, 1.0]


def test_mean_and_sample_deviation() -> None:
    mean, deviation = mean_and_deviation([1.0, 2.0, 6.0])
    assert mean == 3.0
    assert deviation == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert mean_and_deviation([0.25]) == (0.25, None)
