import pytest
from support.virtual_time import Clock

from mmsr.engine.pace import LONGEST_REST_S, Pace


@pytest.mark.parametrize(("share", "rest_s"), [(0.25, 0.03), (0.5, 0.01), (1.0, 0.0)])
def test_a_rest_is_as_long_as_the_share_wants(share: float, rest_s: float) -> None:
    clock, rests = Clock(), list[float]()

    def sleep(seconds: float) -> None:
        rests.append(seconds)
        clock.now += seconds

    pace = Pace(share, clock=clock, sleep=sleep)
    for _ in range(2):  # the rest itself is no work
        clock.now += 0.01
        pace.rest()
    assert rests == pytest.approx([rest_s, rest_s])


def test_no_rest_is_longer_than_a_moment() -> None:
    clock, rests = Clock(), list[float]()
    pace = Pace(0.01, clock=clock, sleep=rests.append)
    clock.now += 5.0
    pace.rest()
    assert rests == [LONGEST_REST_S]
