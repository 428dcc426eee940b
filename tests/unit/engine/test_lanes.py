from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mmsr.engine.config import BatchConfig
from mmsr.engine.lanes import QUIET_S, Lanes, Waiting


class Future:
    """As much of a future as a queue looks at."""

    def __init__(self) -> None:
        self.ended = False

    def done(self) -> bool:
        return self.ended


def waiting(job: int, length: int = 1, deadline: float | None = None) -> Waiting[int, Any]:
    future: Any = Future()
    return Waiting(job, length, deadline, future)


def filled(config: BatchConfig, single: int = 0, bulk: int = 0) -> Lanes[int, Any]:
    """Return a queue of so many jobs: singles count up from 0, bulk ones from 1,000."""
    lanes = Lanes[int, Any](config)
    for job in range(single):
        lanes.add(waiting(job), 0.0, bulk=False)
    for job in range(bulk):
        lanes.add(waiting(1000 + job), 0.0, bulk=True)
    return lanes


def jobs(lanes: Lanes[int, Any], now: float = 0.0) -> list[int]:
    return [taken.job for taken in lanes.take(now).batch]


def test_single_requests_go_first_and_bulk_calls_have_an_eighth() -> None:
    lanes = filled(BatchConfig(max_batch=16), single=100, bulk=100)
    assert jobs(lanes) == [*range(14), 1000, 1001]
    assert jobs(lanes) == [*range(14, 28), 1002, 1003]


def test_bulk_calls_get_no_more_places_while_single_requests_come() -> None:
    lanes = filled(BatchConfig(max_batch=16), single=1, bulk=100)
    assert jobs(lanes) == [0, 1000, 1001]
    assert jobs(lanes, QUIET_S / 2) == [1002, 1003]


def test_bulk_calls_fill_whole_batches_when_nobody_else_asks() -> None:
    lanes = filled(BatchConfig(max_batch=16), single=1, bulk=100)
    lanes.take(0.0)
    assert len(jobs(lanes, QUIET_S)) == 16
    assert len(jobs(filled(BatchConfig(max_batch=16), bulk=100))) == 16


def test_batches_of_bulk_calls_alone_are_as_small_as_is_efficient() -> None:
    """The first single request after a quiet time waits for one of them."""
    config = BatchConfig(max_batch=16)
    lanes = Lanes[int, Any](config, bulk_batch=4)
    for job in range(20):
        lanes.add(waiting(1000 + job), 0.0, bulk=True)
    assert jobs(lanes) == [1000, 1001, 1002, 1003]
    assert lanes.ahead(0.0, bulk=True) == (4, 4, 1)
    lanes.add(waiting(0), 0.0, bulk=False)
    assert jobs(lanes) == [0, 1004, 1005]
    assert jobs(lanes, QUIET_S) == [1006, 1007, 1008, 1009]


def test_they_are_no_smaller_than_the_bulk_calls_share_nor_larger_than_a_batch() -> None:
    for bulk_batch, size in ((1, 8), (9, 9), (99, 16)):
        lanes = Lanes[int, Any](BatchConfig(max_batch=16, bulk_share=0.5), bulk_batch)
        for job in range(40):
            lanes.add(waiting(1000 + job), 0.0, bulk=True)
        assert len(jobs(lanes)) == size


def test_places_that_bulk_calls_do_not_need_go_to_single_requests() -> None:
    assert jobs(filled(BatchConfig(max_batch=16), single=100, bulk=1)) == [*range(15), 1000]
    assert jobs(filled(BatchConfig(max_batch=16), single=100)) == [*range(16)]


def test_one_place_is_always_a_single_requests() -> None:
    lanes = filled(BatchConfig(max_batch=1), single=3, bulk=3)
    assert [jobs(lanes) for _ in range(6)] == [[0], [1000], [1], [1001], [2], [1002]]
    assert jobs(filled(BatchConfig(max_batch=4, bulk_share=1.0), single=3, bulk=9))[0] == 0


def test_a_batch_is_bounded_by_jobs_times_the_longest_history() -> None:
    lanes = Lanes[int, Any](BatchConfig(max_batch=64, max_work=100))
    for job, length in enumerate([10, 20, 25, 26, 1]):
        lanes.add(waiting(job, length), 0.0, bulk=False)
    assert jobs(lanes) == [0, 1, 2]  # with the next one it would be 4 x 26
    assert jobs(lanes) == [3, 4]


def test_a_job_that_is_too_much_work_by_itself_rides_alone() -> None:
    lanes = Lanes[int, Any](BatchConfig(max_work=10))
    for job in range(2):
        lanes.add(waiting(job, 50), 0.0, bulk=False)
    assert [jobs(lanes), jobs(lanes)] == [[0], [1]]


def test_long_histories_do_not_shut_bulk_calls_out() -> None:
    lanes = Lanes[int, Any](BatchConfig(max_batch=8, max_work=10))
    for job in range(4):
        lanes.add(waiting(job, 10), 0.0, bulk=False)
        lanes.add(waiting(1000 + job, 10), 0.0, bulk=True)
    assert [jobs(lanes) for _ in range(4)] == [[0], [1000], [1], [1001]]


def test_what_has_expired_is_told_and_what_was_cancelled_just_goes() -> None:
    lanes = Lanes[int, Any](BatchConfig())
    cancelled = waiting(2)
    for job in (waiting(0, deadline=1.0), waiting(1, deadline=2.0), cancelled, waiting(3)):
        lanes.add(job, 0.0, bulk=False)
    cancelled.future.ended = True  # type: ignore[attr-defined]
    batch, expired = lanes.take(1.0)
    assert [job.job for job in batch] == [1, 3]
    assert [job.job for job in expired] == [0]
    assert len(lanes) == 0


def test_the_oldest_job_of_both_kinds_is_known() -> None:
    lanes = Lanes[int, Any](BatchConfig())
    assert lanes.oldest() == float("inf")
    lanes.add(waiting(0), 2.0, bulk=False)
    lanes.add(waiting(1), 1.0, bulk=True)
    assert lanes.oldest() == 1.0


arrivals = st.lists(
    st.tuples(st.booleans(), st.integers(0, 40), st.floats(0, 3), st.booleans()), max_size=60
)
configs = st.builds(
    BatchConfig,
    max_batch=st.integers(1, 9),
    max_work=st.integers(1, 120),
    bulk_share=st.sampled_from([0.0, 0.125, 0.5, 1.0]),
)


@settings(max_examples=200, deadline=None)
@given(arrivals, configs, st.none() | st.integers(1, 12))
def test_every_job_rides_once_in_its_lanes_order_and_no_lane_starves(
    plan: Sequence[tuple[bool, int, float, bool]], config: BatchConfig, bulk_batch: int | None
) -> None:
    lanes = Lanes[int, Any](config, bulk_batch)
    most_bulk = max(bulk_batch or config.max_batch, config.bulk_places)
    now = 0.0
    kept: list[Waiting[int, Any]] = []
    for job, (bulk, length, pause_s, withdrawn) in enumerate(plan):
        now += pause_s
        one = waiting(job, length)
        lanes.add(one, now, bulk=bulk)
        if withdrawn:
            lanes.remove(one)
        else:
            kept.append(one)
    rode: list[Waiting[int, Any]] = []
    before: set[bool] | None = None  # who rode when both were waiting
    while len(lanes):
        both = bool(lanes.waiting(bulk=True)) and bool(lanes.waiting(bulk=False))
        batch, expired = lanes.take(now)
        assert batch
        assert not expired
        assert len(batch) <= config.max_batch
        longest = max(one.length for one in batch)
        assert len(batch) == 1 or len(batch) * longest <= config.max_work
        assert sum(one.bulk for one in batch) <= most_bulk
        kinds = {one.bulk for one in batch}
        if both and before is not None:
            assert kinds | before == {True, False}  # of two batches in a row, each lane has one
        before = kinds if both else None
        rode += batch
    assert sorted(one.job for one in rode) == sorted(one.job for one in kept)
    for bulk in (True, False):
        order = [one.job for one in rode if one.bulk == bulk]
        assert order == sorted(order)


def test_a_job_can_be_taken_back_once() -> None:
    lanes = filled(BatchConfig(), single=2)
    one = waiting(9)
    lanes.add(one, 0.0, bulk=True)
    lanes.remove(one)
    lanes.remove(one)
    assert len(lanes) == 2
