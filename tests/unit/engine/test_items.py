import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsr.bundle.catalogue import Catalogue
from mmsr.engine.items import CHUNK, ItemIndex, bound_rows, rows_outside

CATALOGUE = Catalogue(
    item_ids=["ash", "birch", "cedar", "dogwood"],
    titles=[None] * 4,
    categories=[[]] * 4,
    available=np.array([True, True, False, True]),
    popularity=np.array([5, 9, 20, 5]),
)
ITEMS = ItemIndex(CATALOGUE)


def test_rows_start_at_one_and_unknown_ids_have_none() -> None:
    assert ITEMS.rows_of(["cedar", "oak", "ash"]) == [3, 1]
    assert ITEMS.unknown_of(["cedar", "oak"]) == ["oak"]


def test_rows_lead_back_to_their_ids() -> None:
    assert ITEMS.ids_of([4, 1]) == ["dogwood", "ash"]
    assert len(ITEMS) == 4


@settings(deadline=None)  # the machine may be busy
@given(st.integers(1, 5000))
def test_what_is_bound_holds_padding_and_all_items_in_whole_chunks(items: int) -> None:
    bound = bound_rows(items)
    assert bound % CHUNK == 0
    assert items < bound <= items + CHUNK
    assert sorted([*rows_outside(items), *range(1, items + 1)]) == list(range(bound))
