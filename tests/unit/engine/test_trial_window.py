"""When a canary's last minute is beyond the limits, on a clock that moves when told."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.virtual_time import Clock

from mmsr.engine.split import CanaryConfig
from mmsr.engine.trial_window import SLICES, STEP, Window

LEAST = 100
EVERYTHING = CanaryConfig(
    label="canary", shadow_percent=1, max_error_percent=2, max_p99_ms=50, min_overlap=0.5
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def window(clock: Clock) -> Window:
    return Window(EVERYTHING, clock, "requests")


def limit(window: Window) -> str | None:
    breach = window.breach()
    return None if breach is None else breach.limit


def answered(window: Window, count: int, seconds: float = 0.01) -> None:
    for _ in range(count):
        window.answered(seconds)


def test_nothing_is_judged_by_fewer_than_the_least_number(window: Window) -> None:
    for _ in range(LEAST - 1):
        window.failed("INTERNAL", 9.0)
        window.compared(0.0, 0.0)
        assert limit(window) is None
    window.answered()
    assert limit(window) == "errors"


def test_errors_on_the_limit_are_within_it(window: Window) -> None:
    answered(window, 98)
    window.failed("INTERNAL")
    window.failed("DEADLINE_EXCEEDED")
    assert limit(window) is None  # 2 of 100
    window.failed("INTERNAL")
    assert window.breach() == (
        "errors",
        "2.97 % of 101 requests in 60 s failed (2 INTERNAL, 1 DEADLINE_EXCEEDED), the limit is 2 %",
    )


def test_no_error_at_all_may_be_the_limit(clock: Clock) -> None:
    window = Window(CanaryConfig(label="canary", max_error_percent=0), clock, "requests")
    answered(window, 1000)
    assert limit(window) is None
    window.failed("INTERNAL")
    assert limit(window) == "errors"


def test_the_99th_percentile_on_the_limit_is_within_it(window: Window) -> None:
    answered(window, 99, 0.05)
    window.answered(9.0)
    assert limit(window) is None  # of 100 one may be slower
    window.answered(0.06)
    breach = window.breach()
    assert breach is not None
    found = re.fullmatch(
        r"p99 of 101 requests in 60 s is ([\d.]+) ms, the limit is 50 ms", breach.text
    )
    assert found is not None
    assert 60 <= float(found[1]) <= 60 * STEP
    assert breach.limit == "p99"


@given(st.lists(st.floats(1e-5, 10.0), min_size=LEAST, max_size=400), st.floats(1e-3, 10.0))
def test_the_99th_percentile_is_that_of_all_times(seconds: list[float], most_s: float) -> None:
    config = CanaryConfig(label="canary", max_p99_ms=1e3 * most_s)
    window = Window(config, Clock(), "requests")
    for each in seconds:
        window.answered(each)
    p99 = sorted(seconds)[math.ceil(0.99 * len(seconds)) - 1]
    breach = window.breach()
    assert (breach is not None) == (p99 > 1e3 * most_s / 1e3)
    if breach is not None:
        told = float(breach.text.split(" is ")[1].split()[0]) / 1e3
        assert p99 * 0.99 <= told <= p99 * STEP * 1.01  # three digits


def test_answers_whose_time_is_not_judged_count_for_errors_alone(window: Window) -> None:
    for _ in range(98):
        window.answered()
    answered(window, 2, 9.0)
    assert limit(window) is None
    for _ in range(3):
        window.failed("INTERNAL")
    assert limit(window) == "errors"


def test_a_mean_overlap_on_the_limit_is_within_it(window: Window) -> None:
    for number in range(LEAST):
        window.compared(0.1 if number % 2 else 0.9, 0.3)
    assert limit(window) is None
    window.compared(0.0, 0.3)
    assert window.breach() == (
        "overlap",
        "overlap@k of 101 requests in 60 s is 0.495 (rank-biased 0.3), the limit is 0.5",
    )


def test_what_is_older_than_the_window_is_forgotten(clock: Clock, window: Window) -> None:
    for _ in range(50):
        window.failed("INTERNAL")
    clock.now = 59.9
    answered(window, 49)
    assert limit(window) is None
    window.answered(0.01)
    assert limit(window) == "errors"
    clock.now = 60.0
    assert limit(window) is None  # of 50 answers
    answered(window, 50)
    assert limit(window) is None


def test_it_is_forgotten_by_parts(clock: Clock, window: Window) -> None:
    """Failures come evenly: at every time those of the last minute count, or a little less."""
    for second in range(300):
        clock.now = float(second)
        window.failed("INTERNAL")
        answered(window, 9)
        breach = window.breach()
        if second >= 60:
            assert breach is not None
            found = re.search(r"of (\d+) requests", breach.text)
            assert found is not None
            assert 600 * (1 - 1 / SLICES) <= int(found[1]) <= 600


def test_a_window_that_is_cleared_begins_anew(window: Window) -> None:
    for _ in range(LEAST):
        window.failed("INTERNAL")
    window.clear()
    assert limit(window) is None
    answered(window, LEAST)
    assert limit(window) is None


def test_limits_that_are_not_given_are_not_judged(clock: Clock) -> None:
    window = Window(CanaryConfig(label="canary"), clock, "requests")
    for _ in range(2 * LEAST):
        window.failed("INTERNAL", 9.0)
        window.compared(0.0, 0.0)
    assert limit(window) is None
