"""What is known of items, one by one and page by page. Reads, changes nothing."""

import base64
import binascii
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from heapq import merge
from itertools import islice
from typing import NamedTuple

from mmsr.engine.catalogue.live_rows import LiveRows
from mmsr.engine.catalogue.records import Content, Record
from mmsr.engine.errors import InvalidRequest


class State(NamedTuple):
    """An item as a model shows it now."""

    item_id: str
    title: str
    categories: Sequence[str]
    available: bool
    popularity: int
    trained: bool
    live: bool
    modalities: Sequence[str]


class Page(NamedTuple):
    """Some items in the order of their ids."""

    item_ids: list[str]
    next_token: str  # empty: there are no more


def page_of(live: LiveRows, size: int, token: str) -> Page:
    """Return the items after those of the page that gave the token; "" begins."""
    after = read_token(token)
    added, index = live.index.added, live.index
    trained = (item_id for item_id in live.order.after(after) if item_id in index)
    found = merge(trained, islice(added, bisect_right(added, after), None))
    item_ids = list(islice(found, size + 1))
    if len(item_ids) <= size:
        return Page(item_ids, "")
    return Page(item_ids[:size], write_token(item_ids[size - 1]))


def states(
    live: LiveRows, item_ids: Sequence[str], records: Mapping[str, Record]
) -> tuple[list[State], list[str]]:
    """Return what is known of the ids that are there, in their order, and the others."""
    found, unknown = [], []
    for item_id in item_ids:
        number = live.index.number_of(item_id)
        if number is None:
            unknown.append(item_id)
        else:
            found.append(_state(live, item_id, number, records.get(item_id)))
    return found, unknown


def _state(live: LiveRows, item_id: str, number: int, record: Record | None) -> State:
    model = live.model
    trained = live.index.trained_row(item_id)
    changed = item_id in live.modalities
    content = record.content if changed and record is not None else None
    if content is None:
        content = _trained_content(live, trained)
    return State(
        item_id,
        content.title,
        live.reader.projector.categories(content) if changed else content.categories,
        bool(model.filters.available_C[model.placement.row(number)]),
        live.popularity(record or Record(item_id, 0)),
        trained > 0,
        changed,
        live.modalities.get(item_id, ()),
    )


def _trained_content(live: LiveRows, trained: int) -> Content:
    if not trained:
        return Content()
    catalogue = live.model.bundle.catalogue
    title = catalogue.titles[trained - 1] or ""
    return Content(title, categories=tuple(catalogue.categories[trained - 1]))


def write_token(item_id: str) -> str:
    """Return the token of the page after an item."""
    return base64.urlsafe_b64encode(item_id.encode()).decode()


def read_token(token: str) -> str:
    """Return the item that a page comes after; `InvalidRequest` if the token is none."""
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidRequest(
            f"page_token {token[:40]!r} is none of this service; send next_page_token of the page "
            "before, or nothing for the first"
        ) from None
