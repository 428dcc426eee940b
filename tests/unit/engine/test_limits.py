import math

import pytest
from support.virtual_time import Clock

from mmsr.engine.errors import ConfigError, RateExceeded
from mmsr.engine.limits import Bucket, ClientLimits, Rate


def taken(bucket: Bucket, now: float) -> int:
    """Take until there is no more; return how many there were."""
    count = 0
    while not bucket.take(now):
        count += 1
    return count


def test_after_a_pause_there_is_a_burst_and_no_more() -> None:
    bucket = Bucket(Rate(10.0, 5.0), 0.0)
    assert taken(bucket, 0.0) == 5
    assert taken(bucket, 1000.0) == 5


def test_in_the_long_run_the_rate_holds_and_the_wait_that_is_told_is_true() -> None:
    bucket, now, count = Bucket(Rate(10.0, 5.0), 0.0), 0.0, 0
    while now < 10.0:
        wait_s = bucket.take(now)
        if wait_s:
            now += wait_s + 1e-9
        else:
            count += 1
    assert 104 <= count <= 106  # 10 s at 10/s, and the burst


def test_many_requests_in_one_message_delay_those_after_it() -> None:
    bucket = Bucket(Rate(10.0, 5.0), 0.0)
    assert bucket.take(0.0) == 0
    bucket.owe(0.0, 104)
    assert bucket.take(0.0) == pytest.approx((1 + 100) / 10)
    assert bucket.take(10.2) == 0


def test_each_client_has_its_own_bucket_and_its_own_rate() -> None:
    limits = ClientLimits(Rate(1.0, 1.0))
    limits.take("a", None, 0.0)
    limits.take("b", None, 0.0)
    for _ in range(3):
        limits.take("c", Rate(1.0, 3.0), 0.0)
    with pytest.raises(
        RateExceeded, match=r"client 'a' exceeds its 1 requests/s .*1000 ms"
    ) as told:
        limits.take("a", None, 0.0)
    assert told.value.retry_after_ms == 1000
    assert told.value.code == "RESOURCE_EXHAUSTED"


def test_without_a_rate_nothing_is_refused() -> None:
    limits = ClientLimits(None)
    for _ in range(1000):
        limits.take("a", None, 0.0)
    limits.owe("a", 1000, 0.0)


def test_a_rate_that_was_changed_holds_at_once() -> None:
    limits, clock = ClientLimits(None), Clock()
    limits.take("a", Rate(1.0, 1.0), clock())
    limits.take("a", Rate(1.0, 2.0), clock())


@pytest.mark.parametrize("rate", [Rate(0.0, 1.0), Rate(math.nan, 1.0), Rate(1.0, 0.5)])
def test_a_rate_that_lets_nothing_through_is_refused(rate: Rate) -> None:
    with pytest.raises(ConfigError, match="expected at least"):
        rate.check("here")
