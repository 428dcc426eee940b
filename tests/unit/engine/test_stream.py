import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.virtual_time import Clock, VirtualCompute, run_virtually

from mmsr.engine.batch_times import BatchTimes
from mmsr.engine.batcher import Batcher
from mmsr.engine.config import BatchConfig
from mmsr.engine.errors import EngineError, InvalidRequest, Unavailable
from mmsr.engine.stream import KeyedStream

Message = tuple[str, int]  # key, number


def virtually(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_virtually(Clock(), main())


async def sent(
    messages: Sequence[Message], read: list[Message] | None = None
) -> AsyncIterator[Message]:
    for message in messages:
        if read is not None:
            read.append(message)
        yield message


async def collect(answers: AsyncIterator[Message], found: list[Message]) -> None:
    async for answer in answers:
        found.append(answer)


def keyed(
    answer: Callable[[Message], Awaitable[Message]], in_flight: int = 64
) -> KeyedStream[Message, Message]:
    return KeyedStream(answer, lambda message: message[0], in_flight)


async def all_of(
    stream: KeyedStream[Message, Message], messages: AsyncIterator[Message]
) -> list[Message]:
    return [answer async for answer in stream.answers(messages, asyncio.Event())]


async def slowest_first(message: Message) -> Message:
    await asyncio.sleep(1.0 / (1 + message[1]))
    return message


def test_answers_come_as_they_are_ready() -> None:
    async def main() -> None:
        messages = [("a", 0), ("b", 1), ("c", 2)]
        assert await all_of(keyed(slowest_first), sent(messages)) == messages[::-1]

    virtually(main)


def test_answers_of_equal_keys_come_in_the_order_of_their_requests() -> None:
    async def main() -> None:
        messages = [("a", 0), ("a", 1), ("b", 2), ("a", 3)]
        found = await all_of(keyed(slowest_first), sent(messages))
        assert found == [("b", 2), ("a", 0), ("a", 1), ("a", 3)]

    virtually(main)


def test_a_stream_without_messages_ends() -> None:
    async def main() -> None:
        assert await all_of(keyed(slowest_first), sent([])) == []

    virtually(main)


def test_no_more_is_read_than_may_be_in_flight() -> None:
    async def main() -> None:
        read: list[Message] = []
        messages = [(str(n), n) for n in range(10)]
        answers = keyed(slowest_first, in_flight=3).answers(sent(messages, read), asyncio.Event())
        first = await anext(answers)  # written, but whoever reads has not come back for the next
        await asyncio.sleep(100)
        assert first == ("2", 2)
        assert len(read) == 3
        assert len([first, *[answer async for answer in answers]]) == 10

    virtually(main)


def test_a_message_that_cannot_be_read_ends_the_stream_after_those_before_it() -> None:
    async def broken() -> AsyncIterator[Message]:
        yield "a", 0
        raise InvalidRequest("3 bytes that are no message")

    async def main() -> None:
        found: list[Message] = []
        with pytest.raises(InvalidRequest, match="3 bytes"):
            await collect(keyed(slowest_first).answers(broken(), asyncio.Event()), found)
        assert found == [("a", 0)]

    virtually(main)


async def never_ending(count: int) -> AsyncIterator[Message]:
    for number in range(count):
        yield str(number), number
    await asyncio.Event().wait()


def test_a_server_that_stops_answers_what_it_has_read_and_ends_the_stream() -> None:
    async def main() -> None:
        stopped = asyncio.Event()
        found: list[Message] = []
        asyncio.get_running_loop().call_later(0.1, stopped.set)
        with pytest.raises(Unavailable, match="send what was not answered to another one"):
            await collect(keyed(slowest_first).answers(never_ending(3), stopped), found)
        assert sorted(found) == [("0", 0), ("1", 1), ("2", 2)]

    virtually(main)


def test_a_stream_that_has_ended_may_be_finished_while_the_server_stops() -> None:
    async def main() -> None:
        stopped = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, stopped.set)
        answers = keyed(slowest_first).answers(sent([("a", 0)]), stopped)
        assert [answer async for answer in answers] == [("a", 0)]

    virtually(main)


def test_a_stopped_server_reads_nothing() -> None:
    async def main() -> None:
        stopped, read = asyncio.Event(), list[Message]()
        stopped.set()
        with pytest.raises(Unavailable):
            await anext(keyed(slowest_first).answers(sent([("a", 0)], read), stopped))
        assert read == []

    virtually(main)


def test_a_bug_in_an_answer_ends_the_stream() -> None:
    async def broken(message: Message) -> Message:
        raise ValueError("nobody foresaw it")

    async def main() -> None:
        with pytest.raises(ValueError, match="nobody foresaw it"):
            await all_of(keyed(broken), never_ending(2))

    virtually(main)


def test_a_cancelled_stream_cancels_what_is_in_flight() -> None:
    cancelled: list[int] = []

    async def hang(message: Message) -> Message:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(message[1])
            raise
        return message

    async def main() -> None:
        task = asyncio.create_task(all_of(keyed(hang), never_ending(3)))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(cancelled) == [0, 1, 2]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    virtually(main)


def test_nothing_of_a_stream_is_left_behind() -> None:
    async def main() -> None:
        stream = keyed(slowest_first)
        await all_of(stream, sent([("a", 0), ("b", 1)]))
        assert (stream._last, stream._tasks) == ({}, set())

    virtually(main)


plans = st.lists(
    st.tuples(
        st.sampled_from("abc"),  # key
        st.integers(0, 20),  # pause before it, ms
        st.none() | st.integers(0, 60),  # deadline, ms from its arrival
    ),
    max_size=40,
)


Outcome = tuple[str, int, object]  # key, number, answer or error


@dataclass
class World:
    """A real batcher in virtual time behind a stream; a message is answered by its double."""

    plan: list[tuple[str, int, int | None]]
    cost_s: float
    max_batch: int
    clock: Clock = field(default_factory=Clock)
    started: dict[int, float] = field(default_factory=dict)
    deadlines: dict[int, float] = field(default_factory=dict)

    def double(self, jobs: list[int]) -> list[int]:
        assert not self.started.keys() & set(jobs), "computed twice"
        self.started.update(dict.fromkeys(jobs, self.clock.now))
        self.clock.now += self.cost_s
        return [2 * job for job in jobs]

    async def messages(self) -> AsyncIterator[Message]:
        for number, (key, pause_ms, deadline_ms) in enumerate(self.plan):
            await asyncio.sleep(pause_ms / 1e3)
            if deadline_ms is not None:
                self.deadlines[number] = self.clock.now + deadline_ms / 1e3
            yield key, number

    async def outcomes(self, in_flight: int) -> list[Outcome]:
        compute = VirtualCompute(self.clock)
        compute.cost_s = self.cost_s
        config = BatchConfig(max_batch=self.max_batch)
        batcher = Batcher[int, int](
            self.double, compute, config, clock=self.clock, times=BatchTimes()
        )

        async def answer(message: Message) -> Outcome:
            try:
                ride = await batcher.submit(message[1], self.deadlines.get(message[1]))
            except EngineError as error:
                return (*message, error)
            return (*message, ride.answer)

        stream = KeyedStream[Message, Outcome](answer, lambda message: message[0], in_flight)
        found = [one async for one in stream.answers(self.messages(), asyncio.Event())]
        assert batcher.idle
        return found


@settings(max_examples=100, deadline=None)
@given(plans, st.integers(1, 8), st.integers(1, 20), st.integers(1, 6))
def test_no_request_of_a_stream_is_lost_doubled_reordered_or_run_too_late(
    plan: list[tuple[str, int, int | None]], in_flight: int, cost_ms: int, max_batch: int
) -> None:
    world = World(plan, cost_ms / 1e3, max_batch)
    found = run_virtually(world.clock, world.outcomes(in_flight))
    assert sorted(number for _, number, _ in found) == list(range(len(plan)))
    for key in "abc":
        order = [number for its_key, number, _ in found if its_key == key]
        assert order == sorted(order)
    for _, number, result in found:
        assert result == 2 * number or isinstance(result, EngineError)
    for number, at in world.started.items():
        assert at <= world.deadlines.get(number, float("inf")) + 1e-9
