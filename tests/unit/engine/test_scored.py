"""Rows change sides while the model serves: what is asked for and what is stored stay together."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_bundle import Shop, Sizes

from mmsr.engine.model import ItemRow, RowRequest, SequenceModel, open_model
from mmsr.engine.scored import ScoredRows, best

ITEMS = Sizes.items
SCORE_ATOL = 1e-4  # numpy and ONNX Runtime sum in other orders; measured below 1e-5


@pytest.fixture(scope="module")
def opened(shop: Shop) -> Iterator[SequenceModel]:
    model = open_model(shop.folder, threads=1)
    yield model
    model.close()


def rows_in_front(scored: ScoredRows, count: int) -> list[int]:
    rows: list[int] = sorted(scored.rows(np.arange(count)).tolist())
    return rows


switches = st.lists(st.tuples(st.integers(1, ITEMS), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)  # the machine may be busy
@given(switches=switches)
def test_switching_availability_shows_in_the_next_answer(
    opened: SequenceModel, shop: Shop, switches: list[tuple[int, bool]]
) -> None:
    for row, available in switches:
        opened.set_available(row, available)
    wanted = np.flatnonzero(opened.filters.available_C).tolist()
    assert rows_in_front(opened.scored, opened.scored.available) == wanted
    assert rows_in_front(opened.scored, opened.scored.present) == list(range(1, ITEMS + 1))
    everything = RowRequest([3, 7], [], ITEMS)
    [answer] = opened.recommend([everything])
    assert sorted(answer.rows) == wanted
    scores = shop.twin.outputs_CD[answer.rows] @ shop.twin.state([3, 7])
    assert answer.scores == pytest.approx(scores.tolist(), abs=SCORE_ATOL)
    [also] = opened.recommend([everything._replace(only_available=False)])
    assert sorted(also.rows) == list(range(1, ITEMS + 1))


moves = st.lists(
    st.tuples(st.integers(0, Sizes().capacity - 1), st.sampled_from(["in", "hidden", "out"])),
    max_size=60,
)


@settings(max_examples=50, deadline=None)
@given(moves=moves)
def test_every_row_keeps_its_vector_wherever_it_moves(
    opened: SequenceModel, shop: Shop, moves: list[tuple[int, str]]
) -> None:
    scored = ScoredRows(opened.bundle, opened.runner)
    side = {row: "out" for row in range(shop.sizes.capacity)}
    side |= {r: "in" if a else "hidden" for r, a in enumerate(shop.twin.available_N.tolist(), 1)}
    for row, to in moves:
        scored.move(row, present=to != "out", available=to == "in")
        side[row] = to
    assert rows_in_front(scored, scored.available) == [r for r, s in side.items() if s == "in"]
    assert rows_in_front(scored, scored.present) == [r for r, s in side.items() if s != "out"]
    rows = np.arange(shop.sizes.capacity)
    state = np.ones(shop.sizes.width, np.float32)
    np.testing.assert_allclose(
        scored.scores(state[None], rows)[0], shop.twin.outputs_CD.sum(1), atol=1e-3
    )


def test_a_spare_row_is_written_and_let_in(shop: Shop) -> None:
    model = open_model(shop.folder, threads=1)
    spare = ITEMS + 5
    state = shop.twin.state([3, 7])
    inputs = np.ones(shop.twin.inputs_CW.shape[1], np.float32)
    request = RowRequest([3, 7], [], 1)
    model.write_item(spare, ItemRow(inputs, 10 * state, ["brand new"], available=False))
    assert model.recommend([request])[0].rows != [spare]
    assert model.recommend([request._replace(only_available=False)])[0].rows == [spare]
    model.set_available(spare, True)
    [answer] = model.recommend([request])
    assert answer.rows == [spare]
    assert answer.scores == pytest.approx([10 * float(state @ state)], rel=1e-5)
    new = model.filters.categories.filter_of(["brand new"], [])
    assert model.recommend([request._replace(categories=new)])[0].rows == [spare]
    best = shop.twin.outputs_CD[model.recommend([RowRequest([spare], [spare], 1)])[0].rows[0]]
    assert best.sum() == pytest.approx(float(available_vectors(shop).sum(axis=1).max()), abs=1e-4)
    with pytest.raises(ValueError, match="row 305 holds an item or is none"):
        model.write_item(spare, ItemRow(inputs, state, []))
    model.remove_item(spare)
    assert model.recommend([request._replace(only_available=False)])[0].rows != [spare]
    model.close()


def available_vectors(shop: Shop) -> npt.NDArray[np.float32]:
    vectors: npt.NDArray[np.float32] = shop.twin.outputs_CD[1 : ITEMS + 1][shop.twin.available_N]
    return vectors


def test_the_bundles_file_is_never_written(shop: Shop) -> None:
    model = open_model(shop.folder, threads=1)
    before = (shop.folder / "tables" / "item_outputs.npy").read_bytes()
    model.set_available(3, False)
    model.scored.write(ITEMS + 1, np.ones(shop.sizes.width, np.float32))
    assert (shop.folder / "tables" / "item_outputs.npy").read_bytes() == before
    model.close()


def test_nothing_available_is_an_empty_answer(shop: Shop) -> None:
    model = open_model(shop.folder, threads=1)
    for row in range(1, ITEMS + 1):
        model.set_available(row, False)
    [none, some] = model.recommend(
        [RowRequest([1], [], 5), RowRequest([1], [], 5, only_available=False)]
    )
    assert none.rows == []
    assert len(some.rows) == 5
    model.close()


@given(st.lists(st.integers(-5, 5), max_size=30), st.integers(1, 40))
def test_the_best_are_the_highest_in_order(scores: list[int], k: int) -> None:
    found = best(np.array(scores, np.float32), k)
    assert [scores[place] for place in found] == sorted(scores, reverse=True)[:k]
    assert len(set(found.tolist())) == len(found)
