"""The search of the highest rate within a bound: where it ends, and what it forgives."""

import pytest

from benchmarks.rivals.search import CLOSE_ENOUGH, Search


def run(search: Search, capacity_per_s: float) -> Search:
    """Probe a server that holds every rate up to its capacity."""
    for _ in range(100):
        if search.done:
            return search
        search.note(search.next_per_s <= capacity_per_s)
    raise AssertionError("the search does not end")


@pytest.mark.parametrize("first", [20.0, 400.0, 3000.0])
def test_it_ends_just_below_the_capacity_wherever_it_began(first: float) -> None:
    search = run(Search(next_per_s=first), capacity_per_s=437.0)
    assert 437.0 / CLOSE_ENOUGH <= search.held_per_s <= 437.0


def test_one_miss_is_forgiven() -> None:
    search = Search(next_per_s=100.0)
    search.note(held=False)
    assert search.next_per_s == 100.0
    search.note(held=True)
    assert search.held_per_s == 100.0
    assert search.missed_per_s == float("inf")


def test_two_misses_in_a_row_give_a_rate_up() -> None:
    search = Search(next_per_s=100.0)
    search.note(held=False)
    search.note(held=False)
    assert search.missed_per_s == 100.0
    assert search.next_per_s < 100.0


def test_a_server_that_holds_nothing_ends_the_search_with_nothing() -> None:
    assert run(Search(next_per_s=100.0), capacity_per_s=0.0).held_per_s == 0.0
