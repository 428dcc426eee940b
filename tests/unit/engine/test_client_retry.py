from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.virtual_time import Clock

from mmsr.engine.client_retry import HINT_SPREAD, Retries, Retrying
from mmsr.engine.errors import (
    CatalogueFull,
    ConfigError,
    DeadlineTooShort,
    EngineError,
    Exhausted,
    InvalidRequest,
    MessageTooLarge,
    NotFound,
    Overloaded,
    RunnerFailed,
    Unavailable,
)

GONE = Unavailable("the server is stopping")


def retrying(retries: Retries, clock: Clock | None = None, chance: float = 1.0) -> Retrying:
    return Retrying(retries, clock=clock or Clock(), chance=lambda: chance)


def waits(retrying: Retrying, error: EngineError, timeout_s: float = 100.0) -> Iterator[float]:
    """Yield how long a call waits whose every try ends in `error`."""
    tries = retrying.begin(timeout_s)
    while (wait_s := tries.wait_s(error)) is not None:
        yield wait_s


def test_the_longest_wait_doubles_up_to_its_limit() -> None:
    retries = Retries(tries=6, first_wait_ms=20, most_wait_ms=100, budget=100)
    assert [*waits(retrying(retries), GONE)] == [0.02, 0.04, 0.08, 0.1, 0.1]


def test_a_wait_is_drawn_between_nothing_and_the_longest() -> None:
    assert [*waits(retrying(Retries(tries=3), chance=0.25), GONE)] == [0.005, 0.01]


def test_the_servers_hint_is_honoured_and_spread() -> None:
    refused = Overloaded("full", 40)
    assert [*waits(retrying(Retries(tries=2), chance=0.0), refused)] == [0.04]
    assert [*waits(retrying(Retries(tries=2)), refused)] == [0.04 * (1 + HINT_SPREAD)]


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("k is 0"),
        NotFound("label"),
        DeadlineTooShort("too late"),
        RunnerFailed("the computation failed"),
        MessageTooLarge("larger than max"),
        CatalogueFull("no spare row"),
        Exhausted("another's quota"),
    ],
)
def test_what_another_try_would_not_change_is_not_tried(error: EngineError) -> None:
    shared = retrying(Retries())
    assert [*waits(shared, error)] == []
    assert len([*waits(shared, GONE)]) == 3  # nor does it cost anything


def test_nothing_is_sent_again_that_would_come_after_the_deadline() -> None:
    clock = Clock()
    tries = retrying(Retries(first_wait_ms=20), clock).begin(0.030)
    assert tries.wait_s(GONE) == 0.02
    clock.now = 0.02
    assert tries.left_s() == pytest.approx(0.01)
    assert tries.wait_s(GONE) is None
    clock.now = 1.0
    assert tries.left_s() == 0.0


def test_a_client_whose_calls_fail_stops_trying_again() -> None:
    shared = retrying(Retries(tries=4, budget=10))
    counts = [len([*waits(shared, GONE)]) for _ in range(5)]
    assert counts == [3, 0, 0, 0, 0]  # ten tokens, six after the first call, and none at five
    for _ in range(100):
        shared.begin(1.0).succeeded()
    assert len([*waits(shared, GONE)]) == 3


def test_one_try_is_one_try() -> None:
    assert [*waits(retrying(Retries(tries=1)), GONE)] == []


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"tries": 0}, "tries 0; expected at least 1"), ({"budget": -1}, "budget -1; expected")],
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, int], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Retries(**settings)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([GONE, Overloaded("full", 30), InvalidRequest("no")]), max_size=20),
    st.floats(0.01, 1.0),
    st.floats(0, 1),
)
def test_a_call_never_outlives_its_deadline(
    errors: list[EngineError], timeout_s: float, chance: float
) -> None:
    clock = Clock()
    tries = Retrying(Retries(tries=50, budget=1000), clock=clock, chance=lambda: chance).begin(
        timeout_s
    )
    for error in errors:
        wait_s = tries.wait_s(error)
        if wait_s is None:
            break
        clock.now += wait_s
    assert clock.now <= timeout_s
