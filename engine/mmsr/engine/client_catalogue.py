"""Typed clients of `mmsr.v1.Catalogue`, blocking and for asyncio.

    with CatalogueClient("127.0.0.1:50051") as catalogue:
        catalogue.upsert([Item(item_id="i-1", title="A chair", categories=["chairs"])])

Writing the same item twice is one write: so all calls but the stream are sent again like reads.
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from functools import cached_property

from mmsr.engine.client_calls import AsyncCalls, Calls, Feed
from mmsr.engine.client_items import (
    Changed,
    Item,
    ItemPage,
    Items,
    ItemState,
    Progress,
    Upserted,
    changed,
    found_items,
    item_message,
    item_page,
    progress,
    upsert_messages,
    upserted,
)
from mmsr.engine.client_messages import encoding, ids
from mmsr.v1 import catalogue_pb2 as pb
from mmsr.v1 import catalogue_pb2_grpc as pb_grpc

__all__ = [
    "AsyncCatalogueClient",
    "CatalogueClient",
    "Changed",
    "Item",
    "ItemPage",
    "ItemState",
    "Items",
    "Progress",
    "Upserted",
]


class CatalogueClient(Calls):
    """Blocking client; one instance may be shared by threads.

    Every method raises an `EngineError`. Without `deadline_ms` the client's `timeout_s` holds.
    """

    @cached_property
    def _stub(self) -> pb_grpc.CatalogueStub:
        return pb_grpc.CatalogueStub(self._channel)

    def upsert(self, items: Iterable[Item], *, deadline_ms: float | None = None) -> Upserted:
        """Add or replace up to 1,000 items, all or none."""
        request = pb.UpsertItemsRequest(items=map(item_message, items))
        return self._call(self._stub.UpsertItems, request, upserted, deadline_ms)

    def upsert_stream(
        self, items: Iterable[Item], *, deadline_ms: float | None = None
    ) -> Iterator[Progress]:
        """Add or replace any number of items; yields how many are durable and seen.

        `items` is read in another thread. After an error, send again what was not acknowledged.
        """
        feed: Feed[pb.UpsertItemsStreamRequest, pb.UpsertItemsStreamRequest] = Feed(
            upsert_messages(items), lambda message: message
        )
        return self._stream(self._stub.UpsertItemsStream, feed, progress, deadline_ms)

    def delete(self, item_ids: Iterable[str], *, deadline_ms: float | None = None) -> Changed:
        """Remove up to 10,000 items for good."""
        request = delete_request(item_ids)
        return self._call(self._stub.DeleteItems, request, changed, deadline_ms)

    def set_availability(
        self, item_ids: Iterable[str], available: bool, *, deadline_ms: float | None = None
    ) -> Changed:
        """Say of up to 10,000 items whether they can be bought now."""
        request = availability_request(item_ids, available)
        return self._call(self._stub.SetAvailability, request, changed, deadline_ms)

    def get(self, item_ids: Iterable[str], *, deadline_ms: float | None = None) -> Items:
        """Return what is known of up to 1,000 items."""
        request = get_request(item_ids)
        return self._call(self._stub.GetItems, request, found_items, deadline_ms)

    def page(
        self, page_token: str = "", page_size: int = 0, *, deadline_ms: float | None = None
    ) -> ItemPage:
        """Return one page of all items, up to 1,000 (0: 100)."""
        request = list_request(page_token, page_size)
        return self._call(self._stub.ListItems, request, item_page, deadline_ms)

    def items(self, page_size: int = 0) -> Iterator[ItemState]:
        """Yield all items in the order of their ids, fetched page by page."""
        page = self.page("", page_size)
        yield from page.items
        while page.next_page_token:
            page = self.page(page.next_page_token, page_size)
            yield from page.items


class AsyncCatalogueClient(AsyncCalls):
    """Client for asyncio; made and used on one event loop.

    Every method raises an `EngineError`. Without `deadline_ms` the client's `timeout_s` holds;
    cancelling the task cancels the call.
    """

    @cached_property
    def _stub(self) -> pb_grpc.CatalogueStub:
        return pb_grpc.CatalogueStub(self._channel)

    async def upsert(self, items: Iterable[Item], *, deadline_ms: float | None = None) -> Upserted:
        """Add or replace up to 1,000 items, all or none."""
        request = pb.UpsertItemsRequest(items=map(item_message, items))
        return await self._call(self._stub.UpsertItems, request, upserted, deadline_ms)

    def upsert_stream(
        self,
        items: AsyncIterable[Item] | Iterable[Item],
        *,
        deadline_ms: float | None = None,
    ) -> AsyncIterator[Progress]:
        """Add or replace any number of items; yields how many are durable and seen.

        Items that come one by one are sent one by one. After an error, send again what was not
        acknowledged.
        """
        if isinstance(items, AsyncIterable):
            feed: Feed[Item, pb.UpsertItemsStreamRequest] = Feed(items, one_item)
            return self._stream(self._stub.UpsertItemsStream, feed, progress, deadline_ms)
        packed: Feed[pb.UpsertItemsStreamRequest, pb.UpsertItemsStreamRequest] = Feed(
            upsert_messages(items), lambda message: message
        )
        return self._stream(self._stub.UpsertItemsStream, packed, progress, deadline_ms)

    async def delete(self, item_ids: Iterable[str], *, deadline_ms: float | None = None) -> Changed:
        """Remove up to 10,000 items for good."""
        request = delete_request(item_ids)
        return await self._call(self._stub.DeleteItems, request, changed, deadline_ms)

    async def set_availability(
        self, item_ids: Iterable[str], available: bool, *, deadline_ms: float | None = None
    ) -> Changed:
        """Say of up to 10,000 items whether they can be bought now."""
        request = availability_request(item_ids, available)
        return await self._call(self._stub.SetAvailability, request, changed, deadline_ms)

    async def get(self, item_ids: Iterable[str], *, deadline_ms: float | None = None) -> Items:
        """Return what is known of up to 1,000 items."""
        request = get_request(item_ids)
        return await self._call(self._stub.GetItems, request, found_items, deadline_ms)

    async def page(
        self, page_token: str = "", page_size: int = 0, *, deadline_ms: float | None = None
    ) -> ItemPage:
        """Return one page of all items, up to 1,000 (0: 100)."""
        request = list_request(page_token, page_size)
        return await self._call(self._stub.ListItems, request, item_page, deadline_ms)

    async def items(self, page_size: int = 0) -> AsyncIterator[ItemState]:
        """Yield all items in the order of their ids, fetched page by page."""
        page = await self.page("", page_size)
        for item in page.items:
            yield item
        while page.next_page_token:
            page = await self.page(page.next_page_token, page_size)
            for item in page.items:
                yield item


def one_item(item: Item) -> pb.UpsertItemsStreamRequest:
    """Return a message of one item."""
    return pb.UpsertItemsStreamRequest(items=[item_message(item)])


def delete_request(item_ids: Iterable[str]) -> pb.DeleteItemsRequest:
    """Translate a request."""
    with encoding("ids in UTF-8"):
        return pb.DeleteItemsRequest(item_ids=ids("item_ids", item_ids))


def availability_request(item_ids: Iterable[str], available: bool) -> pb.SetAvailabilityRequest:
    """Translate a request."""
    with encoding("ids in UTF-8"):
        return pb.SetAvailabilityRequest(item_ids=ids("item_ids", item_ids), available=available)


def get_request(item_ids: Iterable[str]) -> pb.GetItemsRequest:
    """Translate a request."""
    with encoding("ids in UTF-8"):
        return pb.GetItemsRequest(item_ids=ids("item_ids", item_ids))


def list_request(page_token: str, page_size: int) -> pb.ListItemsRequest:
    """Translate a request."""
    with encoding("a page_size from 0 to 1000"):
        return pb.ListItemsRequest(page_token=page_token, page_size=page_size)
