import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.virtual_time import Clock, VirtualCompute, run_virtually

from mmsr.engine.asides import Asides
from mmsr.engine.batch_times import BatchTimes
from mmsr.engine.errors import DeadlineTooShort, Overloaded, Unavailable


@dataclass
class World:
    """Computations of 10 ms a piece in virtual time."""

    limit: int = 4
    clock: Clock = field(default_factory=Clock)
    times: BatchTimes = field(default_factory=BatchTimes)
    order: list[str] = field(default_factory=list)

    def run(self, main: Callable[[Asides], Coroutine[Any, Any, None]]) -> None:
        async def inside() -> None:
            compute = VirtualCompute(self.clock)
            compute.cost_s = 0.010
            await main(Asides(compute, clock=self.clock, limit=self.limit))

        run_virtually(self.clock, inside())

    async def compute(
        self, asides: Asides, name: str, pieces: int = 1, deadline: float | None = None
    ) -> None:
        async with asides.turn(self.times, 1, deadline):
            for piece in range(pieces):
                await asides.piece(lambda piece=piece: self.order.append(f"{name}{piece}"))  # type: ignore[misc]


def test_computations_take_turns_each_with_all_its_pieces() -> None:
    world = World()

    async def main(asides: Asides) -> None:
        await asyncio.gather(world.compute(asides, "a", 2), world.compute(asides, "b", 2))
        assert asides.idle

    world.run(main)
    assert world.order == ["a0", "a1", "b0", "b1"]


def test_what_a_piece_raises_is_raised() -> None:
    world = World()

    def fail() -> None:
        raise ValueError("no")

    async def main(asides: Asides) -> None:
        async with asides.turn(world.times, 1, None):
            with pytest.raises(ValueError, match="no"):
                await asides.piece(fail)

    world.run(main)


def test_too_many_are_refused_and_told_when_to_retry() -> None:
    world = World(limit=2)
    world.times.record(1, 0.010)

    async def main(asides: Asides) -> None:
        tasks = [asyncio.create_task(world.compute(asides, name)) for name in "ab"]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 of these requests are waiting") as refused:
            await world.compute(asides, "c")
        assert refused.value.retry_after_ms == 20
        await asyncio.gather(*tasks)

    world.run(main)
    assert world.order == ["a0", "b0"]


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    world = World()
    world.times.record(1, 0.010)

    async def main(asides: Asides) -> None:
        first = asyncio.create_task(world.compute(asides, "a"))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineTooShort, match=r"15 ms are left.* about 20 ms"):
            await world.compute(asides, "b", deadline=0.015)
        await world.compute(asides, "c", deadline=0.025)
        await first

    world.run(main)
    assert world.order == ["a0", "c0"]


def test_a_computation_whose_deadline_passes_while_it_waits_is_not_begun() -> None:
    world = World()  # nothing was measured yet: it is admitted

    async def main(asides: Asides) -> None:
        first = asyncio.create_task(world.compute(asides, "a"))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineTooShort, match="passed in the queue"):
            await world.compute(asides, "b", deadline=0.005)
        await first

    world.run(main)
    assert world.order == ["a0"]


def test_one_that_nothing_is_before_is_tried_whatever_the_prediction() -> None:
    world = World()
    world.times.record(1, 5.0)
    world.run(lambda asides: world.compute(asides, "a", deadline=0.050))
    assert world.order == ["a0"]
    assert world.times.predict(1) < 5.0


def test_a_cancelled_one_leaves_the_queue() -> None:
    world = World()

    async def main(asides: Asides) -> None:
        first = asyncio.create_task(world.compute(asides, "a"))
        second = asyncio.create_task(world.compute(asides, "b"))
        await asyncio.sleep(0.001)
        second.cancel()
        await first
        assert asides.idle

    world.run(main)
    assert world.order == ["a0"]


def test_draining_waits_for_what_is_queued_and_refuses_what_is_new() -> None:
    world = World()

    async def main(asides: Asides) -> None:
        tasks = [asyncio.create_task(world.compute(asides, name)) for name in "ab"]
        await asyncio.sleep(0)
        draining = asyncio.create_task(asides.drain())
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="stopping"):
            await world.compute(asides, "c")
        await draining
        assert all(task.done() for task in tasks)
        await asides.drain()

    world.run(main)
    assert world.order == ["a0", "b0"]


def test_draining_waits_for_a_caller_whose_turn_has_yet_to_come() -> None:
    """An explanation first asks the batcher for the best items."""
    world = World()

    async def visitor(asides: Asides) -> None:
        with asides.visit():
            await asyncio.sleep(0.050)
            await world.compute(asides, "a")

    async def main(asides: Asides) -> None:
        task = asyncio.create_task(visitor(asides))
        await asyncio.sleep(0.001)
        draining = asyncio.create_task(asides.drain())
        await asyncio.sleep(0.001)
        assert not draining.done()
        with pytest.raises(Unavailable), asides.visit():
            raise AssertionError("nobody comes in any more")
        await draining
        assert task.done()

    world.run(main)
    assert world.order == ["a0"]
