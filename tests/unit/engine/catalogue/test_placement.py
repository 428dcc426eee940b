"""Numbers stay an item's own while rows change hands."""

from hypothesis import given
from hypothesis import strategies as st

from mmsr.engine.catalogue.placement import NOWHERE, Placement
from mmsr.engine.rows import RowAnswer, RowRequest


def test_at_first_an_item_stands_in_the_row_of_its_number_and_nothing_is_copied() -> None:
    placement = Placement()
    numbers = [3, 1, 2]
    assert placement.rows(numbers) is numbers
    requests = [RowRequest([1], [2], 5)]
    assert placement.placed(requests) is requests


def test_every_list_of_a_request_is_translated_and_so_is_its_answer() -> None:
    placement = Placement()
    placement.place(2, 11)  # item 2 has changed
    placement.place(30, 2)  # and another one has its row
    placement.remove(5)
    [placed] = placement.placed([RowRequest([2, 5], [30, 7], 4, allowed=(5, 2))])
    assert (placed.history, placed.excluded, placed.allowed) == ([11, NOWHERE], [2, 7], [0, 11])
    assert placed.k == 4
    assert placement.named([RowAnswer([11, 7, 2], [3.0, 2.0, 1.0])]) == [
        RowAnswer([2, 7, 30], [3.0, 2.0, 1.0])
    ]


def test_without_a_list_of_allowed_items_all_stay_allowed() -> None:
    placement = Placement()
    placement.place(2, 11)
    assert placement.placed([RowRequest([2], [], 1)])[0].allowed is None
    assert placement.placed([RowRequest([2], [], 1, allowed=())])[0].allowed == ()


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=30))
def test_whoever_stands_somewhere_is_found_there(moves: list[tuple[int, int]]) -> None:
    placement, row_of = Placement(), {number: number for number in range(1, 10)}
    for number, row in moves:
        if row in row_of.values():  # not free
            placement.remove(number)
            row_of.pop(number, None)
        else:
            placement.place(number, row)
            row_of[number] = row
    assert {n: placement.row(n) for n in row_of} == row_of
    assert list(placement.numbers(list(row_of.values()))) == list(row_of)
    gone = [number for number in range(1, 10) if number not in row_of]
    assert list(placement.rows(gone)) == [NOWHERE] * len(gone)
