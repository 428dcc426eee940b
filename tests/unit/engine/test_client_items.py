import pytest

from mmsr.engine.client_items import (
    MESSAGE_BYTES,
    MESSAGE_ITEMS,
    Item,
    item_message,
    upsert_messages,
)
from mmsr.engine.errors import InvalidRequest


def test_a_stream_packs_items_by_number() -> None:
    items = [Item(item_id=str(n)) for n in range(2 * MESSAGE_ITEMS + 1)]
    messages = [*upsert_messages(items)]
    assert [len(message.items) for message in messages] == [MESSAGE_ITEMS, MESSAGE_ITEMS, 1]
    ids = [item.item_id for message in messages for item in message.items]
    assert ids == [item.item_id for item in items]


def test_a_stream_packs_items_by_size() -> None:
    third = b"x" * (MESSAGE_BYTES // 3)
    items = [Item(item_id=str(n), image=third) for n in range(5)]
    messages = [*upsert_messages([*items, Item(item_id="big", image=third * 9)])]
    assert [len(message.items) for message in messages] == [2, 2, 1, 1]


def test_no_items_are_no_message() -> None:
    assert [*upsert_messages([])] == []


def test_what_is_not_said_is_told_from_what_is_0() -> None:
    nothing = item_message(Item(item_id="a"))
    assert not nothing.HasField("available")
    assert not nothing.HasField("popularity")
    said = item_message(Item(item_id="a", available=False, popularity=0))
    assert said.HasField("available")
    assert said.HasField("popularity")


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        (Item(item_id="a", popularity=-1), "cannot be encoded"),
        (Item(item_id="\udcff"), "cannot be encoded"),
        (
            Item(item_id="a", categories="chairs"),
            "categories is the text 'chairs'; expected a list",
        ),
    ],
)
def test_an_item_that_cannot_be_sent_is_refused(item: Item, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        item_message(item)
