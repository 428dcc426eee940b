"""What judges a soak finds a leak of each kind, and finds none where there is only noise."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.soak_verdict import Round, Soak, problems, timing_problems, trends
from support.trends import growth, rises, slope

MINUTES, SETTLED = 30, 5
NOISE = 0.10  # of p99 relative to the echo, s.d. of its logarithm
Change = Callable[[int], dict[str, Any]]  # of a minute


def minute(number: int, **said: Any) -> Round:
    """Return a minute in which nothing is wrong."""
    found: dict[str, Any] = {
        "seconds": 60.0,
        "capacity_per_s": 1000.0,
        "echo_per_s": 4000.0,
        "rate_per_s": 700.0,
        "requests": 42_000,
        "failed": {},
        "latency_ms": {"p50": 2.0, "p90": 4.0, "p99": 10.0},
        "echo_ms": {"p50": 1.0, "p90": 2.0, "p99": 5.0},
        "lag_ms": 0.5,
        "cpu_us": 400.0,
        "memory_mib": 100.0,
        "descriptors": 40,
        "threads": 20,
        "children": 1,
        "load_average": 2.0,
    }
    return Round(**(found | said))


def soak_of(change: Change = lambda number: {}, **said: Any) -> Soak:
    """Return a soak whose minutes are changed so."""
    whole = Soak(
        rounds=[minute(n, **change(n)) for n in range(MINUTES)],
        settled=SETTLED,
        checked=12_000,
        wrong=(),
        reloads=30,
        asked_reloads=30,
        writes=9000,
        failed_writes=(),
        beside=9000,
        failed_beside=(),
        bundles=("a", "b"),
    )
    return replace(whole, **said)


def noisy(seed: int, drift: float = 0.0) -> Change:
    """Return minutes whose p99 goes up and down with the machine, and by `drift` a minute."""
    random = np.random.default_rng(seed)
    busy = np.exp(random.normal(0, 0.5, MINUTES))  # both feel it
    own = np.exp(random.normal(0, NOISE, MINUTES))

    def change(number: int) -> dict[str, Any]:
        rest = {"p50": 1.0, "p90": 2.0}
        p99 = 10.0 * busy[number] * own[number] * math.exp(drift * number)
        return {
            "latency_ms": {**rest, "p99": p99},
            "echo_ms": {**rest, "p99": 5.0 * busy[number]},
        }

    return change


def test_a_soak_without_fault_has_no_problem() -> None:
    whole = soak_of(noisy(0))
    assert problems(whole) == []
    assert timing_problems(whole) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda n: {"memory_mib": 100 + 0.15 * n}, "resident memory grew by 3.6%"),
        (lambda n: {"memory_mib": 100 + 5.0 * (n >= MINUTES - 2)}, "resident memory grew by 5.0%"),
        (lambda n: {"descriptors": 40 + n}, "file descriptors: 13 more"),
        (lambda n: {"descriptors": 40 + (n > 15)}, "file descriptors: 1 more"),
        (lambda n: {"threads": 20 + n // 10}, "threads: 1 more"),
        (lambda n: {"children": 1 + (n > 12)}, "child processes: 1 more"),
        (lambda n: {"failed": {"CANCELLED": 2} if n == 7 else {}}, "2 requests ended with CANC"),
    ],
)
def test_each_leak_and_failure_is_found(change: Change, said: str) -> None:
    [problem] = problems(soak_of(change))
    assert said in problem


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"wrong": ["item-3 for item-4"]}, "wrong answer: item-3 for item-4"),
        ({"failed_writes": ["Unavailable"]}, "a write failed: Unavailable"),
        ({"failed_beside": ["a stream ended"]}, "beside the load: a stream ended"),
        ({"reloads": 29}, "29 of 30 bundles took over"),
        ({"log_problems": ["ERROR in the log"]}, "ERROR in the log"),
    ],
)
def test_whatever_else_went_wrong_is_told(said: dict[str, Any], found: str) -> None:
    assert problems(soak_of(**said)) == [found]


def test_what_settles_in_the_first_minutes_is_no_leak() -> None:
    warm = soak_of(lambda n: {"memory_mib": 80.0 + 4 * min(n, 5), "descriptors": 30 + min(n, 5)})
    assert problems(warm) == []


def test_what_a_reload_takes_for_a_while_is_no_leak() -> None:
    up_and_down = soak_of(
        lambda n: {"memory_mib": 100 + n % 2, "descriptors": 40 + n % 3, "threads": 20 + n % 2}
    )
    assert problems(up_and_down) == []


def test_a_p99_that_rises_by_2_percent_a_minute_is_found_in_a_busy_machine() -> None:
    found = [timing_problems(soak_of(noisy(seed, 0.02))) for seed in range(100)]
    assert sum(map(bool, found)) >= 95
    assert "p99 relative to the echo rises" in found[0][0]


def test_noise_alone_is_seldom_taken_for_a_trend() -> None:
    whole = [trends(soak_of(noisy(seed))).p99 for seed in range(400)]
    assert sum(found.is_a_trend for found in whole) <= 0.07 * len(whole)


def test_noise_that_lasts_for_minutes_is_seldom_taken_for_a_trend() -> None:
    taken = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        values = [0.0]
        for step in random.normal(0, NOISE, MINUTES):
            values.append(0.5 * values[-1] + step)
        taken += slope(values).is_a_trend
    assert taken <= 0.1 * 200


def test_a_capacity_that_falls_is_found_though_the_rate_follows_it() -> None:
    whole = soak_of(lambda n: {"capacity_per_s": 1000.0 * 0.99**n, "rate_per_s": 700.0 * 0.99**n})
    [problem] = timing_problems(whole)
    assert "capacity relative to the echo falls: -25%" in problem


def test_what_gets_faster_is_no_problem() -> None:
    faster = noisy(3, -0.03)
    assert trends(soak_of(faster)).p99.is_a_trend
    assert timing_problems(soak_of(faster)) == []


def test_a_slope_is_that_of_the_line_whatever_single_minutes_do() -> None:
    values = [0.5 * n for n in range(30)]
    values[10] = 1000.0
    found = slope(values)
    assert found.per_step == pytest.approx(0.5)
    assert found.low <= 0.5 <= found.high
    assert found.is_a_trend


def test_too_few_measurements_have_no_trend() -> None:
    assert not slope([1.0, 2.0, 3.0, 4.0]).is_a_trend


def test_growth_is_along_the_line_or_between_the_ends() -> None:
    assert growth([100.0] * 20) == 0.0
    assert growth([100.0 + n for n in range(21)]) == pytest.approx(20 / 101, abs=0.002)
    assert growth([100.0] * 18 + [110.0] * 2) == pytest.approx(0.1)
    assert growth([100.0] * 19 + [200.0]) == 0.0  # one reading


def test_counts_that_come_back_are_flat() -> None:
    assert rises([5, 6, 7, 6, 5, 6, 7, 9, 5, 6]) == 0
    assert rises([5, 6, 5, 5, 6, 6, 7, 6]) == 1
    assert rises([6, 6, 6, 6, 5, 5]) == -1
