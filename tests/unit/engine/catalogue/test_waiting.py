"""Requests that wait while the catalogue changes what their ids mean."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.live import Shown, run, shown
from support.tiny_bundle import Shop, Sizes
from support.tiny_explain import with_explain
from support.tiny_live import publish_live

from mmsr.engine.asides import Asides
from mmsr.engine.batch_times import BatchTimes
from mmsr.engine.batcher import Batcher
from mmsr.engine.bulk import Bulk, Queued
from mmsr.engine.catalogue.live_rows import LiveRows, Plan
from mmsr.engine.compute import Done
from mmsr.engine.config import BatchConfig, Limits
from mmsr.engine.errors import EngineError
from mmsr.engine.explaining import ExplainItems
from mmsr.engine.popular import with_popular
from mmsr.engine.query import ExplainQuery, Query, Reply, ScoreQuery, SimilarQuery
from mmsr.engine.rows import RowAnswer, RowRequest
from mmsr.engine.service import ASKED_AGAIN, ModelFacts, Service
from mmsr.engine.similar import SimilarItems, Vectors
from mmsr.v1 import catalogue_pb2 as pb

SIZES = Sizes(items=55, spare=8, probes=4)
ALL = 1000


class Held:
    """A thread that computes nothing until it is told to; then in the caller's."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], Any], Done]] = []
        self.batches = 0

    def submit(self, call: Any, done: Done) -> None:
        self.waiting.append((call, done))

    def compute(self) -> None:
        """Compute the batch that waits, if one does."""
        if not self.waiting:
            return
        call, done = self.waiting.pop(0)
        self.batches += 1
        done(call(), None)


class World:
    """A live catalogue and a service whose batches wait."""

    def __init__(self, it: Shown, live: LiveRows) -> None:
        self.it, self.live, self.held = it, live, Held()
        model = live.model
        batcher = Batcher[RowRequest, RowAnswer](
            with_popular(model.recommend, model.named),
            self.held,
            BatchConfig(),
            clock=time.monotonic,
            times=BatchTimes(),
        )
        facts = ModelFacts(model.version, model.max_length, True)
        self.service = Service(live.index, batcher, facts, Limits(), model.named)

    async def upsert(self, *item_ids: str) -> None:
        """Write items that come first after any history: their scores are the largest."""
        items = [pb.Item(item_id=i, image_features=[9.0, 9.0, 9.0]) for i in item_ids]
        await self.it.upsert(self.live, *items)

    async def meanwhile(
        self, asked: Coroutine[Any, Any, Any], *changes: Coroutine[Any, Any, Any]
    ) -> Any:
        """Ask, make a change before each batch is computed, and return what was answered."""
        asking = asyncio.create_task(asked)
        for change in changes:
            while not self.held.waiting:
                await asyncio.sleep(0)
            await change
            self.held.compute()
        while not asking.done():
            await asyncio.sleep(0)
            self.held.compute()
        return await asking

    async def now(self, query: Query) -> Reply:
        """Ask of a catalogue that does not change."""
        reply: Reply = await self.meanwhile(self.service.recommend(query))
        return reply


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    root = tmp_path_factory.mktemp("shop") / "repository"
    return publish_live(root, SIZES, complete=with_explain)


Main = Callable[[World], Coroutine[Any, Any, None]]


@pytest.fixture
def world(shop: Shop, tmp_path: Path) -> Callable[[Main], None]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[World]:
        async with shown(tmp_path / "c.db") as it:
            live = await it.attach(shop.folder)
            yield World(it, live)
            await it.detach(live)

    async def inside(main: Main) -> None:
        async with opened() as world:
            await main(world)

    return lambda main: run(inside(main))


def same(one: Reply, other: Reply) -> bool:
    told = [(r.item_ids, r.unknown_item_ids, r.popular, r.catalogue_version) for r in (one, other)]
    return told[0] == told[1] and one.scores == pytest.approx(other.scores, abs=1e-4)


def test_what_is_denied_by_an_id_that_comes_meanwhile_does_not_come_back(
    world: Callable[[Main], None],
) -> None:
    async def main(w: World) -> None:
        query = Query(["item-1"], 5, excluded_ids=["new-1", "item-9"])
        reply = await w.meanwhile(w.service.recommend(query), w.upsert("new-1", "new-2"))
        assert "new-1" not in reply.item_ids
        assert len(reply.item_ids) == 5
        assert same(reply, await w.now(query))

    world(main)


def test_what_is_denied_and_written_anew_does_not_come_back(world: Callable[[Main], None]) -> None:
    async def again(w: World) -> None:
        await w.it.catalogue.delete(["item-9"])
        await w.upsert("item-9")

    async def main(w: World) -> None:
        query = Query(["item-1"], ALL, excluded_ids=["item-9"])
        reply = await w.meanwhile(w.service.recommend(query), again(w))
        assert "item-9" not in reply.item_ids
        assert same(reply, await w.now(query))

    world(main)


def test_what_was_seen_does_not_come_back_though_nobody_knew_it_when_it_was_asked(
    world: Callable[[Main], None],
) -> None:
    async def main(w: World) -> None:
        query = Query(["new-1", "item-1"], ALL)
        reply = await w.meanwhile(w.service.recommend(query), w.upsert("new-1"))
        assert "new-1" not in reply.item_ids
        assert same(reply, await w.now(query))

    world(main)


def test_a_history_is_read_without_what_was_removed_meanwhile(
    world: Callable[[Main], None],
) -> None:
    async def main(w: World) -> None:
        history = [f"item-{n}" for n in range(20)]  # the model reads the last 12
        query = Query(history, ALL)
        gone = w.it.catalogue.delete(["item-18"])
        reply = await w.meanwhile(w.service.recommend(query), gone)
        assert reply.unknown_item_ids == ["item-18"]
        assert same(reply, await w.now(query))

    world(main)


def test_without_anything_left_of_a_history_the_popular_items_answer(
    world: Callable[[Main], None],
) -> None:
    async def main(w: World) -> None:
        query = Query(["item-3", "item-4"], 5)
        gone = w.it.catalogue.delete(["item-3", "item-4"])
        reply = await w.meanwhile(w.service.recommend(query), gone)
        assert reply.popular
        assert same(reply, await w.now(query))

    world(main)


def test_requests_of_one_call_are_asked_again_each_by_itself(
    world: Callable[[Main], None],
) -> None:
    async def main(w: World) -> None:
        queries = [Query(["item-1"], 5, ["new-1"]), Query(["item-2"], 5), Query(["new-1"], 5)]
        bulk: Bulk[Query, Reply | EngineError] = Bulk(
            lambda query: Queued(w.service, w.service.begin(query, bulk=True)),
            lambda _, reply: reply,
            lambda error: error,
        )
        replies: Sequence[Reply] = await w.meanwhile(bulk.answer(queries), w.upsert("new-1"))
        assert same(replies[0], await w.now(queries[0]))
        assert "new-1" in replies[1].item_ids  # asked once: it speaks of nothing that changed
        assert replies[1].catalogue_version == 0
        assert replies[2].popular  # answered before the change
        assert w.held.batches == 2 + 1  # and that of `now`

    world(main)


def test_a_change_of_other_items_asks_nothing_again(world: Callable[[Main], None]) -> None:
    async def main(w: World) -> None:
        query = Query(["item-1"], 5, excluded_ids=["item-9"])
        reply = await w.meanwhile(w.service.recommend(query), w.upsert("new-1", "item-9"))
        assert (w.held.batches, reply.catalogue_version) == (1, 0)
        assert "item-9" not in reply.item_ids

    world(main)


def test_a_catalogue_that_never_stands_still_is_not_asked_for_ever(
    world: Callable[[Main], None],
) -> None:
    async def change(w: World, number: int) -> None:
        if number % 2:
            await w.it.catalogue.delete(["new-1"])
        else:
            await w.upsert("new-1")

    async def main(w: World) -> None:
        query = Query(["item-1", "new-1"], 5)
        changes = [change(w, number) for number in range(1 + ASKED_AGAIN)]
        reply = await w.meanwhile(w.service.recommend(query), *changes)
        assert w.held.batches == 1 + ASKED_AGAIN
        assert len(reply.item_ids) == 5

    world(main)


def test_scores_are_those_of_the_items_that_are_there(world: Callable[[Main], None]) -> None:
    async def main(w: World) -> None:
        query = ScoreQuery(["item-1", "item-2"], ["item-3", "item-4", "new-1"])

        async def change() -> None:
            await w.it.catalogue.delete(["item-2", "item-4"])
            await w.upsert("new-1")

        found = await w.meanwhile(w.service.score(query), change())
        still = await w.meanwhile(w.service.score(query))
        assert sorted(found.item_ids) == ["item-3", "new-1"]
        assert found.unknown_candidate_ids == ["item-4"]
        assert found.scores == pytest.approx(still.scores, abs=1e-4)

    world(main)


def test_the_popular_ones_are_without_what_is_denied_before_its_id_is_shown(
    world: Callable[[Main], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked on the event loop, while the thread that computes has applied a change already."""
    met: list[Reply] = []
    apply = LiveRows.apply

    async def main(w: World) -> None:
        def applied(live: LiveRows, plan: Plan) -> list[int]:
            left = apply(live, plan)
            for query in (Query([], 3, ["new-1"]), Query(["new-1"], 3), Query([], 3)):
                met.append(w.service.finish(w.service.begin(query)))
            return left

        monkeypatch.setattr(LiveRows, "apply", applied)
        best = pb.Item(item_id="new-1", image_features=[0.0] * 3, popularity=1_000_000)
        await w.it.upsert(w.live, best)
        denied, seen, free = met
        assert "new-1" not in denied.item_ids + seen.item_ids
        assert free.item_ids[0] == "new-1"
        assert len(denied.item_ids) == len(seen.item_ids) == 3

    world(main)


class Interrupted(Asides):
    """The turns of what is no batch, before the first piece of which the catalogue changes."""

    def __init__(self, w: World, change: Coroutine[Any, Any, Any]) -> None:
        super().__init__(w.it.compute, clock=time.monotonic)
        self.change: Coroutine[Any, Any, Any] | None = change

    async def piece(self, call: Callable[[], Any]) -> Any:
        change, self.change = self.change, None
        if change is not None:
            await change
        return await super().piece(call)


def test_a_neighbour_that_is_denied_by_an_id_that_comes_meanwhile_does_not_come_back(
    world: Callable[[Main], None],
) -> None:
    async def main(w: World) -> None:
        asides = Interrupted(w, w.upsert("new-1", "new-2"))
        similar = SimilarItems(w.service, asides, Vectors.of(w.live.model), clock=time.monotonic)
        query = SimilarQuery("item-3", ALL, excluded_ids=["new-1"])
        reply = await similar.nearest(query)
        assert "new-1" not in reply.item_ids
        assert "new-2" in reply.item_ids
        assert reply._replace(compute_us=0) == (await similar.nearest(query))._replace(compute_us=0)

    world(main)


def test_what_is_explained_is_a_history_without_what_was_removed_meanwhile(
    world: Callable[[Main], None],
) -> None:
    async def main(w: World) -> None:
        def explaining(asides: Asides) -> ExplainItems:
            return ExplainItems(w.service, asides, w.live.model.explainer, clock=time.monotonic)

        still = explaining(Interrupted(w, asyncio.sleep(0)))
        await still.explain(ExplainQuery(["item-1"], ["item-5"]))  # loads the graph
        asides = Interrupted(w, w.it.catalogue.delete(["item-2"]))
        query = ExplainQuery(["item-1", "item-2", "item-3"], ["item-5"])
        reply = await explaining(asides).explain(query)
        assert reply.history == ["item-1", "item-3"]
        again = await still.explain(query)
        assert reply.items == again.items
        assert reply.catalogue_version == again.catalogue_version == 1

    world(main)
