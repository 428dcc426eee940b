import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.virtual_time import Clock, VirtualCompute, run_virtually

from mmsr.engine.batch_times import BatchTimes
from mmsr.engine.batcher import Batcher, Ride
from mmsr.engine.config import BatchConfig
from mmsr.engine.errors import DeadlineTooShort, EngineError, Overloaded, RunnerFailed, Unavailable

CONFIG = BatchConfig(max_batch=4, queue_limit=10)


@dataclass
class World:
    """A batcher in virtual time; a job is a number and its answer the number doubled."""

    config: BatchConfig = CONFIG
    cost_s: float = 0.010  # of any batch
    clock: Clock = field(default_factory=Clock)
    times: BatchTimes = field(default_factory=BatchTimes)
    ran: list[list[int]] = field(default_factory=list)
    started: list[float] = field(default_factory=list)
    broken: bool = False
    lengths: dict[int, int] = field(default_factory=dict)  # of a job's history; else 1

    def run(self, main: Callable[["Batcher[int, int]"], Coroutine[Any, Any, None]]) -> None:
        async def inside() -> None:
            compute = VirtualCompute(self.clock)
            compute.cost_s = self.cost_s
            await main(
                Batcher(
                    self._double,
                    compute,
                    self.config,
                    clock=self.clock,
                    times=self.times,
                    length=lambda job: self.lengths.get(job, 1),
                )
            )

        run_virtually(self.clock, inside())

    def _double(self, jobs: list[int]) -> list[int]:
        self.started.append(self.clock.now)
        self.clock.now += self.cost_s
        self.ran.append(jobs)
        if self.broken:
            raise ValueError("the graph is broken")
        return [2 * job for job in jobs]


async def outcome(call: Coroutine[Any, Any, Ride[int]]) -> int | EngineError:
    try:
        return (await call).answer
    except EngineError as error:
        return error


def test_jobs_that_arrive_together_ride_together() -> None:
    world = World()

    async def main(batcher: Batcher[int, int]) -> None:
        rides = await asyncio.gather(*(batcher.submit(n) for n in range(3)))
        assert [ride.answer for ride in rides] == [0, 2, 4]
        assert {ride.batch_size for ride in rides} == {3}

    world.run(main)
    assert world.ran == [[0, 1, 2]]


def test_a_batch_is_what_is_queued_when_the_thread_frees() -> None:
    world = World()

    async def main(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit(0))
        await asyncio.sleep(0.002)
        later = [asyncio.create_task(batcher.submit(n)) for n in (1, 2)]
        await asyncio.gather(first, *later)

    world.run(main)
    assert world.ran == [[0], [1, 2]]
    assert world.started == pytest.approx([0.0, 0.010])


def test_no_batch_is_larger_than_allowed() -> None:
    world = World()

    async def main(batcher: Batcher[int, int]) -> None:
        await asyncio.gather(*(batcher.submit(n) for n in range(10)))

    world.run(main)
    assert [len(batch) for batch in world.ran] == [4, 4, 2]


def test_the_times_of_a_ride_are_those_of_its_queue_and_its_batch() -> None:
    world = World()

    async def main(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit(0))
        await asyncio.sleep(0.004)
        second = await batcher.submit(1)
        assert (await first).queue_us == 0
        assert second.queue_us == pytest.approx(6_000, abs=1)
        assert second.compute_us == pytest.approx(10_000, abs=1)

    world.run(main)


def test_the_oldest_job_waits_for_company_as_long_as_configured() -> None:
    world = World(config=BatchConfig(max_batch=4, max_wait_ms=5))

    async def main(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit(0))
        await asyncio.sleep(0.003)
        await asyncio.gather(first, batcher.submit(1))

    world.run(main)
    assert world.ran == [[0, 1]]
    assert world.started == pytest.approx([0.005])


def test_a_full_batch_does_not_wait() -> None:
    world = World(config=BatchConfig(max_batch=2, max_wait_ms=5))

    async def main(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit(0))
        await asyncio.sleep(0.001)
        await asyncio.gather(first, batcher.submit(1))

    world.run(main)
    assert world.started == pytest.approx([0.001])


def test_the_wait_is_counted_anew_when_the_oldest_job_is_cancelled() -> None:
    world = World(config=BatchConfig(max_batch=4, max_wait_ms=5))

    async def main(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit(0))
        await asyncio.sleep(0.003)
        second = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.001)
        first.cancel()
        await second

    world.run(main)
    assert world.ran == [[1]]
    assert world.started == pytest.approx([0.008])


def test_a_full_queue_refuses_at_once_and_says_when_to_retry() -> None:
    world = World(config=BatchConfig(max_batch=2, queue_limit=3))
    world.times.record(2, 0.010)

    async def main(batcher: Batcher[int, int]) -> None:
        tasks = [asyncio.create_task(batcher.submit(n)) for n in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="3 requests are waiting") as refused:
            await batcher.submit(3)
        assert world.clock.now == 0.0
        assert refused.value.retry_after_ms == 20
        await asyncio.gather(*tasks)
        assert (batcher.counters.answered, batcher.counters.refused) == (3, 1)
        assert (await batcher.submit(4)).answer == 8

    world.run(main)


def test_a_job_that_could_not_be_answered_in_time_is_refused_at_once() -> None:
    world = World()
    world.times.record(1, 0.010)

    async def main(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit(0))
        await asyncio.sleep(0.001)
        with pytest.raises(DeadlineTooShort, match=r"15 ms are left.* about 19 ms"):
            await batcher.submit(1, deadline=world.clock.now + 0.015)
        assert (await batcher.submit(2, deadline=world.clock.now + 0.025)).answer == 4
        await first

    world.run(main)
    assert world.ran == [[0], [2]]


def test_an_idle_thread_is_tried_even_if_the_prediction_says_no() -> None:
    world = World()
    world.times.record(1, 5.0)  # one stall must not shut everyone out for good

    async def main(batcher: Batcher[int, int]) -> None:
        assert (await batcher.submit(1, deadline=0.050)).answer == 2

    world.run(main)
    assert world.times.predict(1) < 5.0


def test_a_deadline_in_the_past_is_refused() -> None:
    world = World()

    async def main(batcher: Batcher[int, int]) -> None:
        with pytest.raises(DeadlineTooShort, match="passed 100 ms ago"):
            await batcher.submit(1, deadline=-0.1)

    world.run(main)
    assert world.ran == []


def test_a_job_that_expires_in_the_queue_is_not_run() -> None:
    world = World(cost_s=0.100)  # no measurement yet, so it is admitted

    async def main(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit(0))
        await asyncio.sleep(0.001)
        with pytest.raises(DeadlineTooShort, match="passed"):
            await batcher.submit(1, deadline=world.clock.now + 0.050)
        await first

    world.run(main)
    assert world.ran == [[0]]


def test_a_cancelled_job_is_not_run_and_frees_its_place() -> None:
    world = World(config=BatchConfig(max_batch=4, queue_limit=1))

    async def main(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit(0))
        await asyncio.sleep(0.001)
        queued = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)
        queued.cancel()
        await asyncio.sleep(0)
        assert batcher.depth == 0
        assert (await batcher.submit(2)).answer == 4
        await first

    world.run(main)
    assert world.ran == [[0], [2]]


def test_a_job_cancelled_while_it_runs_does_not_hurt_the_others() -> None:
    world = World()

    async def main(batcher: Batcher[int, int]) -> None:
        tasks = [asyncio.create_task(batcher.submit(n)) for n in range(3)]
        await asyncio.sleep(0.005)
        tasks[1].cancel()
        assert [(await tasks[n]).answer for n in (0, 2)] == [0, 4]
        assert (await batcher.submit(5)).answer == 10

    world.run(main)


def test_a_failing_batch_fails_its_own_jobs_only(caplog: pytest.LogCaptureFixture) -> None:
    world = World()

    async def main(batcher: Batcher[int, int]) -> None:
        world.broken = True
        failed = await asyncio.gather(*(outcome(batcher.submit(n)) for n in range(3)))
        assert all(isinstance(error, RunnerFailed) for error in failed)
        assert "graph" not in str(failed[0])
        world.broken = False
        assert (await batcher.submit(4)).answer == 8
        assert (batcher.counters.answered, batcher.counters.batches) == (1, 1)

    world.run(main)
    assert "the graph is broken" in caplog.text  # with its traceback, for the operator


def test_draining_answers_what_is_queued_and_refuses_what_is_new() -> None:
    world = World()

    async def main(batcher: Batcher[int, int]) -> None:
        tasks = [asyncio.create_task(batcher.submit(n)) for n in range(6)]
        await asyncio.sleep(0)
        draining = asyncio.create_task(batcher.drain())
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="stopping"):
            await batcher.submit(9)
        await draining
        assert batcher.idle
        assert [(await task).answer for task in tasks] == [0, 2, 4, 6, 8, 10]
        await batcher.drain()

    world.run(main)


def test_draining_does_not_wait_for_company() -> None:
    world = World(config=BatchConfig(max_batch=4, max_wait_ms=1000))

    async def main(batcher: Batcher[int, int]) -> None:
        task = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.001)
        await batcher.drain()
        assert (await task).answer == 2

    world.run(main)
    assert world.started == pytest.approx([0.001])


def test_what_is_unanswered_waits_or_is_being_computed() -> None:
    world = World(config=BatchConfig(max_batch=2))

    async def main(batcher: Batcher[int, int]) -> None:
        tasks = [asyncio.create_task(batcher.submit(n)) for n in range(5)]
        await asyncio.sleep(0.001)
        assert (batcher.depth, batcher.unanswered) == (3, 5)
        await asyncio.gather(*tasks)
        assert (batcher.depth, batcher.unanswered) == (0, 0)

    world.run(main)


async def wait_past_the_timer(world: World, first: "asyncio.Task[Ride[int]]") -> None:
    """Let the first job set its timer, then keep the loop busy until after that instant."""
    await asyncio.sleep(0.001)
    assert not first.done()
    world.clock.now += 0.050


def test_a_timer_that_is_late_does_not_start_a_second_batch() -> None:
    """The timer and a full queue start batches in one turn of the loop."""
    world = World(config=BatchConfig(max_batch=2, max_wait_ms=5))

    async def main(batcher: Batcher[int, int]) -> None:
        tasks = [asyncio.create_task(batcher.submit(0))]
        await wait_past_the_timer(world, tasks[0])
        tasks += [asyncio.create_task(batcher.submit(n)) for n in (1, 2, 3)]
        assert [(await task).answer for task in tasks] == [0, 2, 4, 6]

    world.run(main)  # its one thread refuses two computations at a time
    assert world.ran == [[0, 1], [2, 3]]


def test_draining_waits_for_the_batch_that_a_late_timer_started() -> None:
    world = World(config=BatchConfig(max_batch=2, max_wait_ms=5))

    async def main(batcher: Batcher[int, int]) -> None:
        task = asyncio.create_task(batcher.submit(0))
        await wait_past_the_timer(world, task)
        await asyncio.create_task(batcher.drain())  # begins in the turn in which the timer fires
        assert world.ran == [[0]]
        assert (await task).answer == 0

    world.run(main)


def test_a_single_request_does_not_wait_for_a_thousand_of_a_bulk_call() -> None:
    world = World(config=BatchConfig(max_batch=8, bulk_limit=1024))

    async def main(batcher: Batcher[int, int]) -> None:
        many = [batcher.enqueue(1000 + n, bulk=True) for n in range(1024)]
        await asyncio.sleep(0.001)
        assert (await batcher.submit(1)).queue_us == pytest.approx(9_000, abs=1)  # one batch
        assert (await batcher.submit(2)).queue_us == pytest.approx(10_000, abs=1)
        for ticket in many:
            assert (await ticket.future).answer == 2 * ticket.job

    world.run(main)
    assert [1, 1008] in world.ran  # beside single requests: an eighth
    assert len(world.ran[-2]) == 8  # without: all of it


def test_the_first_single_request_after_a_quiet_time_waits_for_a_small_batch() -> None:
    world = World(config=BatchConfig(max_batch=64, bulk_limit=4096))
    for size, spent_s in ((1, 0.009), (16, 0.010), (64, 0.038)):
        world.times.record(size, spent_s)
    world.times.settle()

    async def main(batcher: Batcher[int, int]) -> None:
        many = [batcher.enqueue(1000 + n, bulk=True) for n in range(2048)]
        await asyncio.sleep(0.501)
        assert (await batcher.submit(1)).queue_us == pytest.approx(9_000, abs=1)
        await asyncio.gather(*(ticket.future for ticket in many))

    world.run(main)
    alone = [len(batch) for batch in world.ran if 1 not in batch]
    assert set(alone) == {8, 16}  # an eighth for a second after the single request


@dataclass(frozen=True)
class Burst:
    """Bulk jobs that come together, and a single request some time later."""

    jobs: int
    later_ms: int


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.builds(Burst, jobs=st.integers(0, 60), later_ms=st.integers(0, 2500)), max_size=6),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.sampled_from([0.0, 0.125, 1.0]),
)
def test_a_single_request_waits_for_one_efficient_batch_at_most(
    bursts: list[Burst], efficient: int, share: float
) -> None:
    config = BatchConfig(max_batch=16, bulk_limit=4096, bulk_share=share, bulk_ms=0)
    world = World(config=config)
    world.times.record(efficient, 0.010)
    world.times.settle()
    waits_us: list[int] = []

    async def main(batcher: Batcher[int, int]) -> None:
        many = []
        for number, burst in enumerate(bursts):
            many += [batcher.enqueue(1000 + n, bulk=True) for n in range(burst.jobs)]
            await asyncio.sleep(burst.later_ms / 1e3)
            waits_us.append((await batcher.submit(number)).queue_us)
        for ticket in many:
            assert (await ticket.future).answer == 2 * ticket.job

    world.run(main)
    assert all(wait_us <= 10_001 for wait_us in waits_us)
    most = max(efficient, config.bulk_places)
    assert all(sum(job >= 1000 for job in batch) <= most for batch in world.ran)


def test_bulk_calls_go_on_while_single_requests_never_end() -> None:
    world = World(config=BatchConfig(max_batch=8, queue_limit=10_000))

    async def main(batcher: Batcher[int, int]) -> None:
        singles = [batcher.enqueue(n) for n in range(700)]
        bulk = [batcher.enqueue(1000 + n, bulk=True) for n in range(100)]
        for ticket in bulk:
            await ticket.future
        assert len(world.ran) == 100  # one place of each
        await asyncio.gather(*(ticket.future for ticket in singles))

    world.run(main)


def test_bulk_calls_have_a_limit_of_their_own() -> None:
    world = World(config=BatchConfig(max_batch=2, queue_limit=2, bulk_limit=3))

    async def main(batcher: Batcher[int, int]) -> None:
        bulk = [batcher.enqueue(n, bulk=True) for n in range(3)]
        with pytest.raises(Overloaded, match="3 requests of batch calls are waiting, the limit"):
            batcher.enqueue(3, bulk=True)
        singles = [batcher.enqueue(n) for n in (4, 5)]
        with pytest.raises(Overloaded, match="2 requests are waiting, the limit"):
            batcher.enqueue(6)
        await asyncio.gather(*(ticket.future for ticket in [*bulk, *singles]))

    world.run(main)


def test_a_prediction_counts_what_runs_before() -> None:
    world = World(config=BatchConfig(max_batch=8, bulk_limit=1024))
    world.times.record(8, 0.010)

    async def main(batcher: Batcher[int, int]) -> None:
        many = [batcher.enqueue(1000 + n, bulk=True) for n in range(32)]
        assert batcher.predicted_s(0.0) == pytest.approx(0.010)  # rides with one of them
        assert batcher.predicted_s(0.0, bulk=True) == pytest.approx(0.050)
        singles = [batcher.enqueue(n) for n in range(14)]
        assert batcher.predicted_s(0.0) == pytest.approx(0.030)  # two batches of 7 + 1 before
        for ticket in [*many, *singles]:
            batcher.withdraw(ticket)
        assert batcher.depth == 0

    world.run(main)


def test_a_failed_ride_that_nobody_asks_for_is_not_spoken_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(broken=True)

    async def main(batcher: Batcher[int, int]) -> None:
        ticket = batcher.enqueue(1)
        await asyncio.wait({ticket.future})
        batcher.withdraw(ticket)

    world.run(main)
    assert "never retrieved" not in caplog.text


def test_an_idle_batcher_drains_at_once() -> None:
    World().run(lambda batcher: batcher.drain())


@dataclass(frozen=True)
class Call:
    """One caller: arrives, may have a deadline, may give up."""

    arrives_ms: int
    deadline_ms: int | None
    gives_up_ms: int | None
    bulk: bool = False
    length: int = 1


calls = st.lists(
    st.builds(
        Call,
        arrives_ms=st.integers(0, 60),
        deadline_ms=st.none() | st.integers(0, 60),
        gives_up_ms=st.none() | st.integers(0, 60),
        bulk=st.booleans(),
        length=st.integers(0, 20),
    ),
    max_size=30,
)
configs = st.builds(
    BatchConfig,
    max_batch=st.integers(1, 8),
    max_wait_ms=st.sampled_from([0.0, 0.0, 3.0]),
    queue_limit=st.integers(1, 12),
    max_work=st.integers(1, 60),
    bulk_limit=st.integers(1, 12),
)


@settings(max_examples=100, deadline=None)
@given(calls, configs, st.integers(1, 20))
def test_every_call_ends_exactly_once_and_none_runs_after_its_deadline(
    plan: list[Call], config: BatchConfig, cost_ms: int
) -> None:
    world = World(config=config, cost_s=cost_ms / 1e3)
    world.lengths = {number: what.length for number, what in enumerate(plan)}
    ends: dict[int, object] = {}

    async def call(number: int, what: Call, batcher: Batcher[int, int]) -> None:
        await asyncio.sleep(what.arrives_ms / 1e3)
        deadline = None
        if what.deadline_ms is not None:
            deadline = world.clock.now + what.deadline_ms / 1e3
        patience_s = None if what.gives_up_ms is None else what.gives_up_ms / 1e3
        try:
            async with asyncio.timeout(patience_s):
                end: object = await outcome(batcher.submit(number, deadline, bulk=what.bulk))
        except TimeoutError:
            end = "gave up"
        assert number not in ends
        ends[number] = end

    async def main(batcher: Batcher[int, int]) -> None:
        await asyncio.gather(*(call(n, what, batcher) for n, what in enumerate(plan)))
        await batcher.drain()
        answered = sum(isinstance(end, int) for end in ends.values())
        assert answered <= batcher.counters.answered <= sum(map(len, world.ran))
        assert batcher.counters.batches == len(world.ran)
        assert batcher.unanswered == 0

    world.run(main)
    assert ends.keys() == set(range(len(plan)))
    for number, end in ends.items():
        assert end == 2 * number or end == "gave up" or isinstance(end, EngineError)
    flat = [job for batch in world.ran for job in batch]
    assert len(flat) == len(set(flat))
    for batch in world.ran:
        work = len(batch) * max(plan[job].length for job in batch)
        assert len(batch) == 1 or work <= config.max_work
        assert len(batch) <= config.max_batch
    for start, batch in zip(world.started, world.ran, strict=True):
        for job in batch:
            limit_ms = plan[job].deadline_ms
            assert limit_ms is None or start <= (plan[job].arrives_ms + limit_ms) / 1e3 + 1e-9


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 8))
def test_an_answer_does_not_depend_on_order_or_company(order: list[int], max_batch: int) -> None:
    world = World(config=BatchConfig(max_batch=max_batch, queue_limit=20))

    async def main(batcher: Batcher[int, int]) -> None:
        rides = await asyncio.gather(*(batcher.submit(n) for n in order))
        assert [ride.answer for ride in rides] == [2 * n for n in order]

    world.run(main)
