"""How an answer must change, or not, when its question does: no oracle, only pairs of questions.

Each pair goes to a real server, on every way to an answer where the way could matter.
"""

# k results, L read items of a history

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.oip_call import infer
from support.serving import PATIENCE_S, Served, serving
from support.tiny_bundle import Shop, Sizes, Twin, make_twin, manifest_of, seal, write_files
from support.tiny_live import publish_live

from mmsr.bundle.repository import Repository
from mmsr.engine.client import (
    CatalogueClient,
    Item,
    Recommendations,
    RecommenderClient,
    Request,
    StreamRequest,
)

SIZES = Sizes(items=120, spare=40, probes=8)
LONGEST = SIZES.max_length  # L
ATOL = 1e-4  # batches of other sizes sum in another order
EVERYTHING = 1000
ITEMS = [f"item-{n}" for n in range(SIZES.items)]
KIND = [f"kind-{n}" for n in range(7)] + [f"shade-{n}" for n in range(3)]

quick = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,  # the same questions every time
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
known = st.sampled_from(ITEMS)
unknown = st.sampled_from(["nobody-has-it", "item-120", "item-", "ITEM-1", " item-1", "ä€😀"])
histories = st.lists(known, min_size=1, max_size=LONGEST)
results = st.integers(1, 40)


@dataclass(frozen=True)
class World:
    """A server and those who ask it."""

    shop: Shop
    target: str
    client: RecommenderClient
    catalogue: CatalogueClient


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Serve one model under two labels: its items in order, and in another one."""
    shop = publish_live(tmp_path_factory.mktemp("orders") / "repository", SIZES)
    publish_permuted(shop)
    with serving(shop.root, "--also", "permuted") as served:
        yield from world_of(shop, served)


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Serve it with a catalogue that is written."""
    root = tmp_path_factory.mktemp("changing")
    shop = publish_live(root / "repository", SIZES)
    with serving(shop.root, "--catalogue", str(root / "catalogue.db")) as served:
        yield from world_of(shop, served)


def world_of(shop: Shop, served: Served) -> Iterator[World]:
    target = served.target
    with RecommenderClient(target, PATIENCE_S) as client, CatalogueClient(target) as catalogue:
        yield World(shop, target, client, catalogue)


def publish_permuted(shop: Shop) -> None:
    """Publish the shop's model with its items written in another order, as `permuted`."""
    twin = permuted(make_twin(SIZES), np.random.default_rng(9).permutation(SIZES.items))
    repository = Repository(shop.root)
    with repository.stage() as folder:
        write_files(folder, twin, SIZES)
        seal(folder, manifest_of(SIZES))
        bundle_id = repository.publish(folder)
    repository.promote(bundle_id, "permuted")


def permuted(twin: Twin, order_N: np.ndarray[Any, np.dtype[np.int64]]) -> Twin:
    """Return the same items in another order; row 0 and the spare rows stay."""
    rows_C = np.arange(len(twin.inputs_CW))
    rows_C[1 : len(order_N) + 1] = order_N + 1
    return replace(
        twin,
        ids=[twin.ids[n] for n in order_N],
        available_N=twin.available_N[order_N],
        popularity_N=twin.popularity_N[order_N],
        categories=[twin.categories[n] for n in order_N],
        inputs_CW=twin.inputs_CW[rows_C],
        outputs_CD=twin.outputs_CD[rows_C],
        content_CD=twin.content_CD[rows_C],
    )


def ask(world: World, history: Sequence[str], k: int = 10, **options: Any) -> Recommendations:
    return world.client.recommend(history, k, **options)


def same(one: Recommendations, other: Recommendations) -> None:
    """Two answers name the same items with the same scores and come by the same rule."""
    assert [item_id for item_id, _ in one.items] == [item_id for item_id, _ in other.items]
    scores = [score for _, score in other.items]
    assert [score for _, score in one.items] == pytest.approx(scores, abs=ATOL)
    assert one.fallback == other.fallback


def on_every_way(world: World, requests: Sequence[Request]) -> list[list[Recommendations]]:
    """Ask all requests in one batch, on one stream, and one by one."""
    client = world.client
    messages = [StreamRequest(request=r, key=f"{n}") for n, r in enumerate(requests)]
    by_key = {answer.key: answer.result for answer in client.recommend_stream(messages)}
    ways: list[list[Any]] = [
        client.recommend_batch(requests),
        [by_key[f"{n}"] for n in range(len(requests))],
        [recommend(client, request) for request in requests],
    ]
    assert all(isinstance(answer, Recommendations) for way in ways for answer in way)
    return ways


def recommend(client: RecommenderClient, request: Request) -> Recommendations:
    """Ask one request by a call of its own."""
    return client.recommend(
        request.history,
        request.k,
        excluded_ids=request.excluded_ids,
        exclude_seen=request.exclude_seen,
    )


def mixed_in(draw: st.DrawFn, ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return ids with unknown ones at any place, and the unknown ones in their order."""
    longer = list(ids)
    for item_id in draw(st.lists(unknown, min_size=1, max_size=6)):
        longer.insert(draw(st.integers(0, len(longer))), item_id)
    return longer, [item_id for item_id in longer if item_id not in set(ITEMS)]


@st.composite
def with_strangers(draw: st.DrawFn) -> tuple[list[str], list[str], list[str]]:
    """Return a history, the same with unknown ids among it, and those."""
    history = draw(histories)
    longer, strangers = mixed_in(draw, history)
    return history, longer, strangers


@quick
@given(case=with_strangers(), k=results)
def test_unknown_ids_in_a_history_change_nothing_but_their_list(
    world: World, case: tuple[list[str], list[str], list[str]], k: int
) -> None:
    history, longer, strangers = case
    plain = ask(world, history, k)
    for way in on_every_way(world, [Request(history=longer, k=k)]):
        [found] = way
        same(found, plain)
        assert found.unknown_ids == len(strangers)
        assert found.unknown_item_ids == tuple(dict.fromkeys(strangers))
    assert (plain.unknown_ids, plain.unknown_item_ids) == (0, ())


@quick
@given(case=with_strangers(), k=results)
def test_by_the_other_protocol_unknown_and_empty_ids_change_nothing_at_all(
    world: World, case: tuple[list[str], list[str], list[str]], k: int
) -> None:
    history, longer, _ = case
    with grpc.insecure_channel(world.target) as channel:
        spaced = [item_id for known_id in longer for item_id in ("", known_id)]
        answers = infer(channel, [history, longer, spaced], [k] * 3, PATIENCE_S)
    plain = ask(world, history, k)
    for answer in answers:
        same(replace(plain, items=tuple(answer.items)), plain)


@quick
@given(history=histories, listed=st.lists(known, max_size=20), strangers=st.lists(unknown))
def test_unknown_ids_in_the_lists_of_a_request_change_nothing(
    world: World, history: list[str], listed: list[str], strangers: list[str]
) -> None:
    for name in ("excluded_ids", "allowed_ids"):
        plain: Any = {name: listed}
        longer: Any = {name: [*strangers, *listed, *strangers]}
        same(ask(world, history, **longer), ask(world, history, **plain))
    scores = world.client.score(history, [*listed, "item-5"])
    longer_scores = world.client.score(history, [*strangers, *listed, "item-5"])
    assert dict(longer_scores.items) == pytest.approx(dict(scores.items), abs=ATOL)
    assert set(longer_scores.unknown_candidate_ids) == set(strangers)


@quick
@given(history=st.lists(known, min_size=LONGEST + 1, max_size=40), k=results)
def test_of_a_long_history_the_newest_items_are_read_and_all_are_left_out(
    world: World, history: list[str], k: int
) -> None:
    older, newest = history[:-LONGEST], history[-LONGEST:]
    long = Request(history=history, k=k)
    short = Request(history=newest, k=k, excluded_ids=older)
    open_long, open_short = (Request(history=h, k=k, exclude_seen=False) for h in (history, newest))
    for way in on_every_way(world, [long, short, open_long, open_short]):
        same(way[0], way[1])
        same(way[2], way[3])


@quick
@given(
    asked=st.lists(st.tuples(histories, results), min_size=2, max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_equal_requests_of_a_batch_get_equal_answers_in_any_order(
    world: World, asked: list[tuple[list[str], int]], order: Any
) -> None:
    requests = [Request(history=history, k=k) for history, k in asked] * 3
    places = list(range(len(requests)))
    order.shuffle(places)
    answers = on_every_way(world, requests)
    shuffled = on_every_way(world, [requests[place] for place in places])
    for way, other in zip(answers, shuffled, strict=True):
        for place, answer in zip(places, other, strict=True):
            same(answer, way[place])
        for place, answer in enumerate(way):
            same(answer, way[place % len(asked)])
            same(answer, answers[0][place])


@quick
@given(history=histories, k=st.integers(1, 60), fewer=st.integers(1, 60))
def test_fewer_results_are_the_first_of_more(
    world: World, history: list[str], k: int, fewer: int
) -> None:
    fewer = min(fewer, k)
    more = ask(world, history, k)
    same(ask(world, history, fewer), replace(more, items=more.items[:fewer]))


@quick
@given(history=histories, denied=st.lists(known, min_size=1, max_size=30, unique=True), k=results)
def test_denied_items_are_those_left_out_of_the_whole_ranking_whatever_their_order(
    world: World, history: list[str], denied: list[str], k: int
) -> None:
    everything = ask(world, history, EVERYTHING)
    left = tuple(pair for pair in everything.items if pair[0] not in set(denied))[:k]
    found = ask(world, history, k, excluded_ids=denied)
    same(found, replace(everything, items=left))
    again = [*reversed(denied), *denied, *history]  # in another order, twice, and what was seen
    same(ask(world, history, k, excluded_ids=again), found)


@quick
@given(history=histories, allowed=st.lists(known, max_size=40, unique=True), k=results)
def test_allowing_items_is_denying_all_others(
    world: World, history: list[str], allowed: list[str], k: int
) -> None:
    others = [item_id for item_id in ITEMS if item_id not in set(allowed)]
    found = ask(world, history, k, allowed_ids=allowed)
    same(found, ask(world, history, k, excluded_ids=others))
    same(found, ask(world, history, k, allowed_ids=[*reversed(allowed), *allowed]))


@quick
@given(history=histories, names=st.lists(st.sampled_from(KIND), min_size=1, unique=True), k=results)
def test_a_category_is_the_list_of_its_items(
    world: World, history: list[str], names: list[str], k: int
) -> None:
    twin = world.shop.twin
    pairs = zip(twin.ids, twin.categories, strict=True)
    members = [item_id for item_id, has in pairs if set(has) & set(names)]
    same(
        ask(world, history, k, include_categories=names),
        ask(world, history, k, allowed_ids=members),
    )
    same(
        ask(world, history, k, exclude_categories=names),
        ask(world, history, k, excluded_ids=members),
    )
    same(
        ask(world, history, k, include_categories=[*reversed(names), "no item has it"]),
        ask(world, history, k, include_categories=names),
    )


@quick
@given(history=histories, k=results, key=st.text("abc", max_size=5))
def test_who_asks_and_under_which_name_of_the_model_changes_nothing(
    world: World, history: list[str], k: int, key: str
) -> None:
    same(ask(world, history, k, user_key=key, label="stable"), ask(world, history, k))


@quick
@given(history=histories, candidates=st.lists(known, min_size=1, max_size=20, unique=True))
def test_scores_of_candidates_are_those_of_the_ranking_whatever_their_order(
    world: World, history: list[str], candidates: list[str]
) -> None:
    options: Any = {"exclude_seen": False, "only_available": False}
    everything = dict(ask(world, history, EVERYTHING, **options).items)
    found = world.client.score(history, candidates)
    wanted = {item_id: everything[item_id] for item_id in candidates}
    assert dict(found.items) == pytest.approx(wanted, abs=ATOL)
    ranks = [score for _, score in found.items]
    assert ranks == sorted(ranks, reverse=True)
    turned = world.client.score(history, [*reversed(candidates), *candidates])
    assert dict(turned.items) == pytest.approx(wanted, abs=ATOL)


@quick
@given(pair=st.lists(known, min_size=2, max_size=2, unique=True), by_content=st.booleans())
def test_two_items_are_as_near_to_each_other_from_either_side(
    world: World, pair: list[str], by_content: bool
) -> None:
    near = [
        dict(
            world.client.similar(
                one, 1, allowed_ids=[other], only_available=False, by_content=by_content
            ).items
        )[other]
        for one, other in (pair, pair[::-1])
    ]
    assert near[0] == pytest.approx(near[1], abs=ATOL)


@quick
@given(history=histories, k=results, denied=st.lists(known, max_size=5))
def test_items_written_in_another_order_are_ranked_alike(
    world: World, history: list[str], k: int, denied: list[str]
) -> None:
    for options in ({"excluded_ids": denied}, {"allowed_ids": denied}, {"only_available": False}):
        one = ask(world, history, k, **options)
        other = ask(world, history, k, label="permuted", **options)
        assert one.model_version != other.model_version
        same(one, other)
    kinds: Any = {"include_categories": ["kind-1", "shade-2"]}
    same(ask(world, history, k, **kinds), ask(world, history, k, label="permuted", **kinds))


def test_without_a_history_the_order_of_items_decides_among_ties_alone(world: World) -> None:
    one, other = (ask(world, [], EVERYTHING, label=label) for label in ("", "permuted"))
    assert one.fallback == other.fallback == "popularity"
    assert [score for _, score in one.items] == [score for _, score in other.items]
    assert dict(one.items) == dict(other.items)


@pytest.mark.parametrize("number", range(8))
def test_a_deleted_item_is_one_that_was_denied_and_not_read(changing: World, number: int) -> None:
    """And so is one that is not available, but for its being read."""
    gone = f"item-{10 + number}"
    others = [f"item-{n}" for n in range(40 + number, 40 + number + LONGEST - 1)]
    with_it = [*others[:number], gone, *others[number:]]
    denied = ask(changing, others, EVERYTHING, excluded_ids=[gone])
    seen = ask(changing, with_it, EVERYTHING, excluded_ids=[gone], only_available=False)

    changing.catalogue.set_availability([gone], False)
    same(ask(changing, others, EVERYTHING), denied)
    shown = dict(ask(changing, others, EVERYTHING, only_available=False).items)
    assert gone in shown
    same(ask(changing, with_it, EVERYTHING, only_available=False), seen)

    version = changing.catalogue.delete([gone]).catalogue_version
    for way in on_every_way(
        changing, [Request(history=others, k=EVERYTHING), Request(history=with_it, k=EVERYTHING)]
    ):
        for answer, unknown_ids in zip(way, ((), (gone,)), strict=True):
            same(answer, denied)
            assert answer.unknown_item_ids == unknown_ids
            assert answer.catalogue_version == version
    with grpc.insecure_channel(changing.target) as channel:
        [other_way] = infer(channel, [with_it], [EVERYTHING], PATIENCE_S)
    same(replace(denied, items=tuple(other_way.items)), denied)


def test_an_item_written_twice_and_its_twin_are_one_item(changing: World) -> None:
    written = {"image_features": [0.5, -1.0, 2.0], "categories": ["cups"], "popularity": 7}
    item, twin = (Item(item_id=name, **written) for name in ("twin-1", "twin-2"))  # type: ignore[arg-type]
    changing.catalogue.upsert([item, twin])
    first = ask(changing, ["item-1", "twin-1"], EVERYTHING, exclude_seen=False)
    scores = dict(first.items)
    assert scores["twin-1"] == pytest.approx(scores["twin-2"], abs=ATOL)
    same(ask(changing, ["item-1", "twin-2"], EVERYTHING, exclude_seen=False), first)
    changing.catalogue.upsert([twin, item])
    again = ask(changing, ["item-1", "twin-1"], EVERYTHING, exclude_seen=False)
    assert dict(again.items) == pytest.approx(scores, abs=ATOL)
    assert again.catalogue_version > first.catalogue_version


def test_deleting_what_was_added_leaves_every_answer_as_it_was(
    changing: World, tmp_path: Path
) -> None:
    histories_before = [["item-70"], ["item-71", "item-72"], []]
    before = [ask(changing, history, EVERYTHING) for history in histories_before]
    names = [f"passing-{n}" for n in range(12)]
    features = [[float(n), 1.0, -1.0] for n in range(12)]
    for _ in range(3):  # more than there are spare rows, were they not given back
        changing.catalogue.upsert(
            [
                Item(item_id=name, image_features=values, popularity=1000)
                for name, values in zip(names, features, strict=True)
            ]
        )
        assert set(names) <= set(dict(ask(changing, ["item-70"], EVERYTHING).items))
        changing.catalogue.delete(names)
    for history, answer in zip(histories_before, before, strict=True):
        same(ask(changing, history, EVERYTHING), answer)
