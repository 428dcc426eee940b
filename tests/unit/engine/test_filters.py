"""Every filter through the real graph, beside brute force over the whole catalogue."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_bundle import Shop, Twin

from mmsr.bundle.catalogue import Catalogue, load_catalogue
from mmsr.engine.filters import RowFilters
from mmsr.engine.model import CategoryFilter, RowAnswer, RowRequest, SequenceModel, open_model
from mmsr.engine.plan import plan

SCORE_ATOL = 1e-4  # numpy and ONNX Runtime sum in other orders; measured below 1e-5
ITEMS = 300  # of the tiny bundle
NAMES = [f"kind-{n}" for n in range(7)] + [f"shade-{n}" for n in range(3)]


WOOD = RowFilters(
    Catalogue(
        item_ids=["ash", "birch", "cedar", "dogwood"],
        titles=[None] * 4,
        categories=[[]] * 4,
        available=np.array([True, True, False, True]),
        popularity=np.array([5, 9, 20, 5]),
    ),
    capacity=64,
)


def eligible_rows(twin: Twin, filters: RowFilters, request: RowRequest) -> list[int]:
    """Return what may come back, one row after the other, by the catalogue's own words."""
    wanted = request.categories
    kept = []
    for row in range(1, len(twin.ids) + 1):
        has = {name for name in NAMES if name in twin.categories[row - 1]}
        chosen = {n: filters.categories.filter_of([n], []) for n in has}
        indices = {i for found in chosen.values() if found for i in found.include or ()}
        if row in request.excluded or (request.allowed is not None and row not in request.allowed):
            continue
        if request.only_available and not twin.available_N[row - 1]:
            continue
        if wanted and wanted.include is not None and not indices & wanted.include:
            continue
        if wanted and indices & wanted.exclude:
            continue
        kept.append(row)
    return kept


def check(twin: Twin, filters: RowFilters, request: RowRequest, answer: RowAnswer) -> None:
    """Compare with the scores of all eligible rows; equal scores may change places."""
    rows = eligible_rows(twin, filters, request)
    scores = twin.outputs_CD @ twin.state(request.history)
    best = sorted((float(scores[row]) for row in rows), reverse=True)[: request.k]
    assert len(answer.rows) == len(set(answer.rows)) == len(best)
    assert set(answer.rows) <= set(rows)
    assert answer.scores == pytest.approx(best, abs=SCORE_ATOL)
    assert answer.scores == pytest.approx(scores[answer.rows].tolist(), abs=SCORE_ATOL)


rows = st.integers(1, ITEMS)
indices = st.frozensets(st.integers(0, len(NAMES) - 1), max_size=4)
category_filters = st.builds(CategoryFilter, st.none() | indices, indices)


@st.composite
def allow_lists(draw: st.DrawFn) -> Sequence[int]:
    """Draw a list of any size, from none to all; repeats are allowed."""
    size = draw(st.integers(0, ITEMS))
    seed = draw(st.integers(0, 2**32 - 1))
    listed: list[int] = (1 + np.random.default_rng(seed).permutation(ITEMS)[:size]).tolist()
    return listed + listed[: draw(st.integers(0, 3))]


row_requests = st.builds(
    RowRequest,
    history=st.lists(rows, min_size=1, max_size=12),
    excluded=st.lists(rows, max_size=ITEMS),
    k=st.integers(1, 60) | st.just(ITEMS),
    allowed=st.none() | allow_lists(),
    categories=st.none() | category_filters,
    only_available=st.booleans(),
)


@pytest.fixture(scope="module")
def opened(shop: Shop) -> Iterator[SequenceModel]:
    model = open_model(shop.folder, threads=1)
    yield model
    model.close()


@settings(max_examples=1000, deadline=None)  # the machine may be busy
@given(request=row_requests)
def test_every_filter_set_is_answered_as_brute_force_does(
    opened: SequenceModel, shop: Shop, request: RowRequest
) -> None:
    [answer] = opened.recommend([request])
    check(shop.twin, opened.filters, request, answer)


@settings(max_examples=100, deadline=None)
@given(requests=st.lists(row_requests, min_size=2, max_size=12))
def test_a_batch_may_mix_requests_with_and_without_filters(
    opened: SequenceModel, shop: Shop, requests: list[RowRequest]
) -> None:
    for request, answer in zip(requests, opened.recommend(requests), strict=True):
        check(shop.twin, opened.filters, request, answer)


@settings(max_examples=300, deadline=None)
@given(request=row_requests)
def test_the_most_popular_obey_the_same_filters(
    opened: SequenceModel, shop: Shop, request: RowRequest
) -> None:
    rows = eligible_rows(shop.twin, opened.filters, request)
    popularity = shop.twin.popularity_N
    best = sorted(rows, key=lambda row: (-int(popularity[row - 1]), row))[: request.k]
    wanted = RowAnswer(best, [float(popularity[row - 1]) for row in best])
    assert opened.filters.most_popular(request) == wanted


def test_an_allow_list_of_each_size_gives_as_many_as_it_can(
    opened: SequenceModel, shop: Shop
) -> None:
    order = (1 + np.random.default_rng(0).permutation(ITEMS)).tolist()
    for size in range(1, ITEMS + 1, 13):
        request = RowRequest([5, 9], [], 20, allowed=order[:size], only_available=False)
        [answer] = opened.recommend([request])
        assert len(answer.rows) == min(20, size)
        check(shop.twin, opened.filters, request, answer)


def test_a_filter_that_bars_all_that_was_fetched_is_still_exact(shop: Shop) -> None:
    """Half of the items pass, and none of them is among the best that the graph returns."""
    model = open_model(shop.folder, threads=1)
    plain = RowRequest([5, 9], [], 20, only_available=False)
    [best] = model.recommend([plain._replace(k=ITEMS // 2)])
    for row in best.rows:
        model.filters.categories.write(row, ["taken"])
    wanted = plain._replace(categories=model.filters.categories.filter_of([], ["taken"]))
    how = plan(wanted, model.filters, batch=1)
    assert how.checked
    assert how.fetched < ITEMS // 2
    [answer] = model.recommend([wanted])
    scores_C = shop.twin.outputs_CD @ shop.twin.state([5, 9])
    scores_C[[0, *best.rows, *range(ITEMS + 1, shop.sizes.capacity)]] = -np.inf
    assert answer.rows == np.argsort(-scores_C)[:20].tolist()
    model.close()


def test_names_become_a_filter_and_unknown_ones_let_nothing_in(opened: SequenceModel) -> None:
    categories = opened.filters.categories
    assert categories.filter_of([], []) is None
    assert categories.filter_of([], ["no such"]) is None
    assert categories.filter_of(["no such"], []) == CategoryFilter(frozenset(), frozenset())
    assert categories.unknown_of(["kind-1", "no such"]) == ["no such"]
    nothing = RowRequest([1], [], 5, categories=categories.filter_of(["no such"], []))
    assert opened.recommend([nothing]) == [RowAnswer([], [])]
    assert opened.filters.most_popular(nothing) == RowAnswer([], [])


def test_a_written_row_is_filtered_as_it_was_written(shop: Shop) -> None:
    filters = RowFilters(load_catalogue(shop.folder), shop.sizes.capacity)
    kind = filters.categories.filter_of(["kind-1"], [])
    assert kind is not None
    spare = ITEMS + 1
    before = filters.categories.mask(kind).sum()
    filters.write_item(spare, ["kind-1", "brand new"], available=True, popularity=1e6)
    assert filters.categories.mask(kind).sum() == before + 1
    new = filters.categories.filter_of(["brand new"], [])
    request = RowRequest([1], [], 3, categories=new)
    assert filters.most_popular(request) == RowAnswer([spare], [1e6])
    filters.set_available(spare, False)
    assert filters.most_popular(request).rows == []
    assert filters.most_popular(request._replace(only_available=False)).rows == [spare]
    filters.remove_item(spare)
    filters.set_available(spare, True)  # comes too late
    assert filters.most_popular(request._replace(only_available=False)).rows == []


def test_the_popular_items_are_available_ones_ties_in_table_order() -> None:
    assert WOOD.most_popular(RowRequest([], [], 10)) == ([2, 1, 4], [9.0, 5.0, 5.0])


def test_excluded_items_make_room_for_the_next_popular_ones() -> None:
    assert WOOD.most_popular(RowRequest([], [2], 1)) == ([1], [5.0])
