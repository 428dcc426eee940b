"""Plans: what is allowed, and the one line for what is not."""

import json

import pytest

from mmsr.engine.bench.plan import (
    BenchError,
    Loads,
    RunPlan,
    Traffic,
    Window,
    make_plans,
    parse_counts,
    parse_numbers,
    plan_from_json,
)


def loads(plans: list[RunPlan]) -> list[float | None]:
    return [plan.concurrency or plan.rate_per_s for plan in plans]


def test_without_numbers_both_loops_run_at_their_defaults() -> None:
    assert loads(make_plans(Loads(), Window())) == [1, 4, 16, 64, 200, 500]


@pytest.mark.parametrize(
    ("concurrency", "rate", "expected"),
    [("2", None, [2]), (None, "7.5", [7.5]), ("1, 2", "3", [1, 2, 3])],
)
def test_only_what_is_asked_for_runs(
    concurrency: str | None, rate: str | None, expected: list[float]
) -> None:
    assert loads(make_plans(Loads(concurrency=concurrency, rate=rate), Window())) == expected


def test_a_plan_survives_json() -> None:
    window = Window(warm_up_s=0.5, duration_s=6, seed=9)
    traffic = Traffic(arrivals="constant", choice="zipf", generators=3, slo_ms=7, headline=True)
    for plan in make_plans(Loads(concurrency="3", rate="5", step="1,2,3"), window, traffic):
        assert plan_from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_schedules_are_as_long_as_the_window() -> None:
    ramped, stepped = make_plans(Loads(ramp="100:1000", step="100,400"), Window(duration_s=8))
    assert [(s.seconds, s.from_per_s, s.to_per_s) for s in ramped.schedule] == [(8, 100, 1000)]
    assert [(s.seconds, s.from_per_s) for s in stepped.schedule] == [(4, 100), (4, 400)]
    assert (ramped.name, stepped.name) == ("open, 100–1000/s", "open, 100–400/s x2")
    assert ramped.segments[0].to_per_s == 100  # the warm-up goes at the first rate


@pytest.mark.parametrize("text", ["100", "a:b", "1:2:3"])
def test_a_ramp_has_two_ends(text: str) -> None:
    with pytest.raises(BenchError, match=r"--ramp .* expected FROM:TO per second"):
        make_plans(Loads(ramp=text), Window())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arrivals": "bursty"}, "arrivals is 'bursty'; expected one of poisson, constant"),
        ({"choice": "any"}, "choice is 'any'; expected one of in-order, uniform, zipf"),
        ({"generators": 0}, "generators is 0; expected 1 to 64"),
        ({"slo_ms": 0.0}, "slo-ms is 0"),
    ],
)
def test_traffic_that_cannot_be_is_one_line(settings: dict[str, float], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        Traffic(**settings)  # type: ignore[arg-type]


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
