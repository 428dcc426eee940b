"""Plans: what is allowed, and the one line for what is not."""

import pytest

from mmsr.engine.bench.plan import (
    BenchError,
    RunPlan,
    Window,
    make_plans,
    parse_counts,
    parse_numbers,
    plan_from_json,
)


def loads(plans: list[RunPlan]) -> list[float | None]:
    return [plan.concurrency or plan.rate_per_s for plan in plans]


def test_without_numbers_both_loops_run_at_their_defaults() -> None:
    assert loads(make_plans(None, None, Window())) == [1, 4, 16, 64, 200, 500]


@pytest.mark.parametrize(
    ("concurrency", "rate", "expected"),
    [("2", None, [2]), (None, "7.5", [7.5]), ("1, 2", "3", [1, 2, 3])],
)
def test_only_what_is_asked_for_runs(
    concurrency: str | None, rate: str | None, expected: list[float]
) -> None:
    assert loads(make_plans(concurrency, rate, Window())) == expected


def test_a_plan_survives_json() -> None:
    plan = RunPlan(concurrency=3, window=Window(warm_up_s=0.5, seed=9))
    assert plan_from_json(plan.to_json()) == plan


@pytest.mark.parametrize("text", ["", "1,,2", "1;2", "x"])
def test_what_is_no_number_is_named(text: str) -> None:
    with pytest.raises(BenchError, match=r"--rate .* is no number; expected e\.g\. 1,4,16"):
        parse_numbers(text, "--rate")


@pytest.mark.parametrize("text", ["0", "-1", "1.5"])
def test_a_count_is_whole_and_above_zero(text: str) -> None:
    with pytest.raises(BenchError, match="no whole number above zero"):
        parse_counts(text, "--concurrency")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"duration_s": 0.0}, "duration-s is 0; expected 0.1 to 86400"),
        ({"duration_s": float("nan")}, "duration-s is nan"),
        ({"warm_up_s": -1.0}, "warm-up-s is -1"),
        ({"deadline_ms": 0}, "deadline-ms is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_window_out_of_bounds_is_one_line(settings: dict[str, float], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        Window(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("load", [{}, {"concurrency": 1, "rate_per_s": 1.0}])
def test_a_run_is_open_or_closed(load: dict[str, float]) -> None:
    with pytest.raises(BenchError, match=r"closed \(concurrency\) or open"):
        RunPlan(**load, window=Window())  # type: ignore[arg-type]


def test_no_load_is_without_bounds() -> None:
    with pytest.raises(BenchError, match="concurrency is 5000; expected 1 to 4096"):
        RunPlan(concurrency=5000, window=Window())
    with pytest.raises(BenchError, match="rate is inf"):
        RunPlan(rate_per_s=float("inf"), window=Window())
