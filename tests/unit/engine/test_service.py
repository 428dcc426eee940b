import asyncio
import time
from collections.abc import Sequence

import pytest
from support.full_bundle import Filters, eligible, ranked, scores_after
from support.tiny_bundle import Shop

from mmsr.engine.batch_times import BatchTimes
from mmsr.engine.batcher import Batcher
from mmsr.engine.compute import Done
from mmsr.engine.config import BatchConfig, Limits
from mmsr.engine.errors import InvalidRequest
from mmsr.engine.items import ItemIndex
from mmsr.engine.model import RowAnswer, RowRequest, SequenceModel
from mmsr.engine.popular import with_popular
from mmsr.engine.service import NAMED_UNKNOWN, ModelFacts, Query, Reply, Service


class AtOnce:
    """Computes in the caller's thread."""

    def submit(self, call: object, done: Done) -> None:
        assert callable(call)
        done(call(), None)


@pytest.fixture
def ask(model: SequenceModel) -> "Ask":
    return Ask(model)


class Ask:
    """Sends one query through a real service and model."""

    def __init__(self, model: SequenceModel) -> None:
        self.model = model
        self.rode: list[RowRequest] = []

    def __call__(self, query: Query, *, seen: bool = True) -> Reply:
        return asyncio.run(self._ask(query, seen))

    async def _ask(self, query: Query, seen: bool) -> Reply:
        batcher = Batcher[RowRequest, RowAnswer](
            self._run, AtOnce(), BatchConfig(), clock=time.monotonic, times=BatchTimes()
        )
        items = ItemIndex(self.model.bundle.catalogue)
        facts = ModelFacts(self.model.version, self.model.max_length, seen)
        return await Service(items, batcher, facts, Limits(), self.model.named).recommend(query)

    def _run(self, jobs: list[RowRequest]) -> Sequence[RowAnswer]:
        self.rode += jobs
        return with_popular(self.model.recommend, self.model.named)(jobs)


def test_ids_go_in_and_ids_come_out(ask: Ask, shop: Shop) -> None:
    history = ["item-3", "item-8"]
    reply = ask(Query(history, 5))
    expected = shop.twin.recommend(history, 5, excluded=history)
    assert reply.item_ids == [item_id for item_id, _ in expected]
    assert reply.scores == pytest.approx([score for _, score in expected], abs=1e-4)
    assert (reply.unknown_ids, reply.popular, reply.batch_size) == (0, False, 1)


def test_what_was_seen_comes_back_when_asked_for(ask: Ask, shop: Shop) -> None:
    history = ["item-3"]
    everything = ask(Query(history, shop.sizes.items, exclude_seen=False)).item_ids
    assert "item-3" in everything
    assert "item-3" not in ask(Query(history, shop.sizes.items)).item_ids
    assert ask(Query(history, shop.sizes.items), seen=False).item_ids == everything


def test_excluded_items_do_not_come_back(ask: Ask, shop: Shop) -> None:
    best = ask(Query(["item-3"], 3)).item_ids
    reply = ask(Query(["item-3"], 3, excluded_ids=[*best, "nobody-knows-it"]))
    assert not set(reply.item_ids) & set(best)
    expected = shop.twin.recommend(["item-3"], 3, excluded=[*best, "item-3"])
    assert reply.item_ids == [item_id for item_id, _ in expected]


def test_unknown_ids_are_counted_and_skipped(ask: Ask) -> None:
    reply = ask(Query(["nobody", "item-3", "nothing", "nobody"], 4))
    assert reply.unknown_ids == 3
    assert reply.unknown_item_ids == ["nobody", "nothing"]
    assert reply.item_ids == ask(Query(["item-3"], 4)).item_ids


def test_only_the_newest_known_items_are_read_but_all_seen_ones_are_left_out(ask: Ask) -> None:
    history = [f"item-{n}" for n in range(40)]
    reply = ask(Query([*history, "nobody"], 1000))
    assert ask.rode[0].history == list(range(29, 41))
    assert not set(reply.item_ids) & set(history)


def test_an_item_is_excluded_once_however_often_it_is_named(ask: Ask) -> None:
    ask(Query(["item-3", "item-8", "item-3"], 2, excluded_ids=["item-8", "item-5", "item-5"]))
    assert sorted(ask.rode[0].excluded) == [4, 6, 9]


def test_k_is_cut_to_the_number_of_items(ask: Ask, shop: Shop) -> None:
    reply = ask(Query(["item-3"], 1000, exclude_seen=False))
    assert ask.rode[0].k == shop.sizes.items
    assert len(reply.item_ids) == int(shop.twin.available_N.sum())


@pytest.mark.parametrize("history", [[], ["nobody", "nothing"]])
def test_without_a_known_item_the_popular_ones_answer(
    ask: Ask, shop: Shop, history: list[str]
) -> None:
    reply = ask(Query(history, 5))
    assert reply.item_ids == shop.twin.popular(5)
    assert (reply.popular, reply.unknown_ids, reply.batch_size) == (True, len(history), 0)
    assert reply.unknown_item_ids == history
    assert reply.scores == sorted(reply.scores, reverse=True)
    assert ask.rode == []


def test_popular_items_can_be_excluded(ask: Ask, shop: Shop) -> None:
    barred = shop.twin.popular(3)
    assert ask(Query([], 4, excluded_ids=barred)).item_ids == shop.twin.popular(4, excluded=barred)


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        (Query(["item-1"], 0), "k is 0; expected 1 to 1000"),
        (Query(["item-1"], 1001), "k is 1001"),
        (Query(["item-1"] * 10_001, 1), "history has 10001 ids"),
        (Query([], 1, excluded_ids=["item-1"] * 10_001), "excluded_ids has 10001 ids"),
        (Query(["item-1", ""], 1), "history holds an empty id"),
        (Query([], 1, excluded_ids=[""]), "excluded_ids holds an empty id"),
        (Query(["x" * 513], 1), "an id of 513 bytes"),
        (Query(["€" * 171], 1), "an id of 513 bytes"),
        (Query([], 1, excluded_ids=["x" * 600]), "an id of 600 bytes"),
    ],
)
def test_what_is_out_of_range_is_refused_with_the_reason(
    ask: Ask, query: Query, complaint: str
) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        ask(query)


def test_the_limits_themselves_are_allowed(ask: Ask, shop: Shop) -> None:
    reply = ask(Query(["x" * 512] * 9_999 + ["item-1"], 1000, excluded_ids=["item-2"] * 10_000))
    assert (reply.unknown_ids, reply.unknown_item_ids) == (9_999, ["x" * 512])
    assert len(reply.item_ids) == len(shop.twin.popular(1000, excluded=["item-1", "item-2"]))


def test_only_so_many_unknown_ids_are_named(ask: Ask) -> None:
    reply = ask(Query([f"x{n}" for n in range(NAMED_UNKNOWN + 1)] + ["item-1"], 1))
    assert reply.unknown_ids == NAMED_UNKNOWN + 1
    assert reply.unknown_item_ids == [f"x{n}" for n in range(NAMED_UNKNOWN)]


FILTERS = [
    Filters(allowed_ids=["item-3", "item-9", "nobody"]),
    Filters(allowed_ids=[]),
    Filters(include_categories=["kind-1", "nothing has it"]),
    Filters(include_categories=["nothing has it"]),
    Filters(exclude_categories=["shade-1"], only_available=False),
    Filters(excluded_ids=["item-1"], include_categories=["kind-2"], exclude_categories=["shade-0"]),
]


@pytest.mark.parametrize("filters", FILTERS)
def test_the_model_obeys_every_filter(ask: Ask, shop: Shop, filters: Filters) -> None:
    reply = ask(Query(["item-3"], 50, **vars(filters)))
    places = eligible(shop.twin, filters, ["item-3"])
    assert reply.item_ids == ranked(shop.twin, scores_after(shop.twin, ["item-3"]), places)[:50]


@pytest.mark.parametrize("filters", FILTERS)
def test_the_fallback_obeys_every_filter(ask: Ask, shop: Shop, filters: Filters) -> None:
    reply = ask(Query(["nobody"], 50, **vars(filters)))
    popularity = [float(bought) for bought in shop.twin.popularity_N]
    assert reply.item_ids == ranked(shop.twin, popularity, eligible(shop.twin, filters))[:50]
    assert (reply.popular, reply.unknown_item_ids) == (True, ["nobody"])


def test_categories_are_looked_up_by_the_thread_that_changes_them(ask: Ask) -> None:
    assert ask(Query([], 5, include_categories=["kind-1"])).batch_size == 1
    assert ask.rode[0].history == []
    assert ask(Query([], 5, allowed_ids=["item-1"])).batch_size == 0


def test_the_catalogue_that_was_seen_is_told(ask: Ask) -> None:
    assert ask(Query(["item-1"], 1)).catalogue_version == 0
