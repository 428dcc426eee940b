import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_bundle import Shop, Twin

from mmsr.engine.items import ItemIndex
from mmsr.engine.model import RowAnswer, RowRequest, SequenceModel, assemble, pad, split

SCORE_ATOL = 1e-4  # numpy and ONNX Runtime sum in other orders; measured below 1e-5


def random_requests(random: np.random.Generator, count: int, items: int) -> list[RowRequest]:
    return [
        RowRequest(
            random.integers(1, items + 1, random.integers(1, 13)).tolist(),
            random.integers(1, items + 1, random.integers(0, 30)).tolist(),
            int(random.integers(1, 25)),
        )
        for _ in range(count)
    ]


def brute_force(twin: Twin, request: RowRequest) -> list[tuple[str, float]]:
    ids = ["", *twin.ids]
    return twin.recommend(
        [ids[row] for row in request.history], request.k, [ids[row] for row in request.excluded]
    )


def compare(answer: RowAnswer, expected: list[tuple[str, float]], twin: Twin) -> None:
    ids = ["", *twin.ids]
    assert [ids[row] for row in answer.rows] == [item_id for item_id, _ in expected]
    assert answer.scores == pytest.approx([score for _, score in expected], abs=SCORE_ATOL)


def test_a_batch_is_answered_as_brute_force_does(model: SequenceModel, shop: Shop) -> None:
    requests = random_requests(np.random.default_rng(3), 50, shop.sizes.items)
    for request, answer in zip(requests, model.recommend(requests), strict=True):
        compare(answer, brute_force(shop.twin, request), shop.twin)


def test_a_request_alone_is_answered_as_in_company(model: SequenceModel, shop: Shop) -> None:
    requests = random_requests(np.random.default_rng(4), 20, shop.sizes.items)
    together = model.recommend(requests)
    for request, answer in zip(requests, together, strict=True):
        [alone] = model.recommend([request])
        assert alone.rows == answer.rows
        assert alone.scores == pytest.approx(answer.scores, abs=SCORE_ATOL)


def test_as_many_come_back_as_are_eligible(model: SequenceModel, shop: Shop) -> None:
    items = shop.sizes.items
    all_but_three = [row for row in range(1, items + 1) if row not in (10, 20, 30)]
    [answer] = model.recommend([RowRequest([1], all_but_three, items)])
    available = [row for row in (10, 20, 30) if shop.twin.available_N[row - 1]]
    assert sorted(answer.rows) == available


def test_nothing_comes_back_when_everything_is_excluded(model: SequenceModel, shop: Shop) -> None:
    everything = list(range(1, shop.sizes.items + 1))
    assert model.recommend([RowRequest([1], everything, 5)]) == [RowAnswer([], [])]


def test_the_whole_catalogue_can_be_asked_for(model: SequenceModel, shop: Shop) -> None:
    [answer] = model.recommend([RowRequest([1, 2], [], shop.sizes.items)])
    assert len(answer.rows) == int(shop.twin.available_N.sum())
    assert ItemIndex(model.bundle.catalogue).ids_of(answer.rows)[0] in shop.twin.ids


def test_the_tables_are_read_in_place(model: SequenceModel) -> None:
    assert isinstance(model.bundle.item_outputs_CD, np.memmap)
    assert model.bundle.item_outputs_CD.mode == "c"  # what is written stays in this process


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.lists(st.integers(1, 99), max_size=9), min_size=1, max_size=9))
def test_padding_keeps_every_row_in_its_place(lists: list[list[int]]) -> None:
    padded, length_B = pad(lists)
    assert padded.shape == (len(lists), max(1, *map(len, lists), 1))
    for line, size, wanted in zip(padded.tolist(), length_B.tolist(), lists, strict=True):
        assert line[:size] == wanted
        assert not any(line[size:])


def test_a_batch_asks_for_the_most_that_one_of_its_requests_wants() -> None:
    inputs = assemble([RowRequest([1], [], 3), RowRequest([2, 5], [7], 8)])
    assert inputs["k"].tolist() == [8]
    assert inputs["history"].tolist() == [[1, 0], [2, 5]]
    assert inputs["length"].tolist() == [1, 2]
    assert inputs["excluded"].tolist() == [[0], [7]]


def test_an_answer_is_cut_to_its_own_k_and_to_what_is_eligible() -> None:
    requests = [RowRequest([1], [], 1), RowRequest([1], [], 3)]
    rows = np.array([[5, 6, 7], [8, 9, 1]])
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, -np.inf]], np.float32)
    assert split(requests, rows, scores) == [RowAnswer([5], [3.0]), RowAnswer([8, 9], [3.0, 2.0])]
