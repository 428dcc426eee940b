import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from support.virtual_time import Clock, VirtualCompute, run_virtually

from mmsr.bundle.catalogue import Catalogue
from mmsr.engine.batch_times import BatchTimes
from mmsr.engine.batcher import Batcher
from mmsr.engine.bulk import TOGETHER, Bulk, Queued
from mmsr.engine.catalogue.named_filters import NamedFilters
from mmsr.engine.catalogue.placement import Placement
from mmsr.engine.config import BatchConfig, Limits
from mmsr.engine.errors import EngineError, InvalidRequest, Overloaded, RunnerFailed, Unavailable
from mmsr.engine.filters import RowFilters
from mmsr.engine.items import ItemIndex
from mmsr.engine.query import Query, Reply
from mmsr.engine.rows import RowAnswer, RowRequest
from mmsr.engine.service import ModelFacts, Service

CATALOGUE = Catalogue(
    item_ids=[f"item-{n}" for n in range(300)],
    titles=[None] * 300,
    categories=[[]] * 300,
    available=np.ones(300, np.bool_),
    popularity=np.arange(300)[::-1],
)


@dataclass
class World:
    """A service in virtual time whose model answers a history with itself."""

    config: BatchConfig = field(default_factory=BatchConfig)
    clock: Clock = field(default_factory=Clock)
    sizes: list[int] = field(default_factory=list)
    broken: bool = False
    service: Service = field(init=False)

    def run(self, main: Callable[["World"], Coroutine[Any, Any, None]]) -> None:
        async def inside() -> None:
            compute = VirtualCompute(self.clock)
            compute.cost_s = 0.010
            batcher = Batcher[RowRequest, RowAnswer](
                self._echo, compute, self.config, clock=self.clock, times=BatchTimes()
            )
            rows = RowFilters(CATALOGUE, len(CATALOGUE) + 1)
            filters = NamedFilters(rows, Placement())
            facts = ModelFacts("0123456789abcdef", 12, True)
            self.service = Service(ItemIndex(CATALOGUE), batcher, facts, Limits(), filters)
            await main(self)

        run_virtually(self.clock, inside())

    def _echo(self, jobs: list[RowRequest]) -> list[RowAnswer]:
        self.clock.now += 0.010
        self.sizes.append(len(jobs))
        if self.broken:
            raise ValueError("the graph is broken")
        return [RowAnswer(job.history, [0.0] * len(job.history)) for job in jobs]

    def bulk(
        self, begin: Callable[[Query], Queued] | None = None
    ) -> Bulk[Query, list[str] | EngineError]:
        def answered(queued: Queued, reply: Reply) -> list[str] | EngineError:
            return reply.item_ids

        return Bulk(begin or self.begin, answered, lambda error: error)

    def begin(self, query: Query) -> Queued:
        return Queued(self.service, self.service.begin(query, bulk=True))


def asking(*numbers: int) -> list[Query]:
    return [Query([f"item-{n}"], 1) for n in numbers]


def test_each_request_has_its_answer_in_the_order_asked() -> None:
    async def main(world: World) -> None:
        found = await world.bulk().answer(asking(*range(200)))
        assert found == [[f"item-{n}"] for n in range(200)]

    world = World()
    world.run(main)
    assert world.sizes == [64, 64, 64, 8]  # with what is queued when the first batch begins


def test_one_bad_request_is_its_own_error() -> None:
    async def main(world: World) -> None:
        found = await world.bulk().answer([*asking(1), Query(["item-1"], 0), *asking(2)])
        assert [found[0], found[2]] == [["item-1"], ["item-2"]]
        assert isinstance(found[1], InvalidRequest)

    World().run(main)


def test_requests_that_need_no_computation_are_answered() -> None:
    async def main(world: World) -> None:
        assert await world.bulk().answer([Query([], 2)] * 3) == [["item-0", "item-1"]] * 3

    World().run(main)


def test_what_does_not_fit_the_queue_is_told_when_to_come_back() -> None:
    async def main(world: World) -> None:
        found = await world.bulk().answer(asking(*range(100)))
        refused = [end for end in found if isinstance(end, Overloaded)]
        assert len(refused) == TOGETHER - 40  # then a batch has begun, and there is room again
        assert all(end.retry_after_ms >= 1 for end in refused)

    World(config=BatchConfig(bulk_limit=40)).run(main)


def test_a_batch_that_fails_fails_its_requests() -> None:
    async def main(world: World) -> None:
        found = await world.bulk().answer(asking(1, 2))
        assert [type(end) for end in found] == [RunnerFailed, RunnerFailed]

    World(broken=True).run(main)


def test_a_server_that_stops_ends_the_whole_call_and_takes_all_back() -> None:
    async def main(world: World) -> None:
        left = [150]

        def begin(query: Query) -> Queued:
            left[0] -= 1
            if not left[0]:
                raise Unavailable("the server is stopping")
            return world.begin(query)

        with pytest.raises(Unavailable, match="stopping"):
            await world.bulk(begin).answer(asking(*range(200)))
        assert world.service.batcher.depth == 0

    World().run(main)


def test_a_call_that_is_broken_off_takes_back_what_waits() -> None:
    async def main(world: World) -> None:
        call = asyncio.create_task(world.bulk().answer(asking(*range(300))))
        await asyncio.sleep(0.001)
        assert world.service.batcher.unanswered == 300
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert world.service.batcher.depth == 0
        assert world.service.batcher.unanswered == 64  # these are being computed

    world = World()
    world.run(main)
    assert world.sizes == [] or world.sizes == [64]


def test_others_are_served_while_a_large_call_is_taken_on() -> None:
    async def main(world: World) -> None:
        order: list[str] = []

        def begin(query: Query) -> Queued:
            order.append("bulk")
            return world.begin(query)

        async def other() -> None:
            order.append("single")

        call = asyncio.create_task(world.bulk(begin).answer(asking(*range(4 * TOGETHER))))
        await asyncio.sleep(0)
        await asyncio.create_task(other())
        await call
        assert order.index("single") <= 2 * TOGETHER < len(order)

    World().run(main)
