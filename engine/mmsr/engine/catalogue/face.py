"""`mmsr.v1.Catalogue` over gRPC: translates messages, decides nothing."""

from collections.abc import AsyncIterator, Sequence

import grpc

from mmsr.engine.catalogue.changes import Done
from mmsr.engine.catalogue.config import CatalogueLimits
from mmsr.engine.catalogue.drafts import check_ids, drafts_of
from mmsr.engine.catalogue.listing import State, page_of, states
from mmsr.engine.catalogue.live import LiveCatalogue
from mmsr.engine.catalogue.live_rows import LiveRows
from mmsr.engine.errors import InvalidRequest, NotLive
from mmsr.engine.rpc import Call, Rpc, register
from mmsr.engine.serving import Serving
from mmsr.v1 import catalogue_pb2 as pb

MOST_US = 2**32 - 1  # what the field holds


class CatalogueFace:
    """The methods of the catalogue service; all of them refuse where there is no live catalogue."""

    name = "mmsr.v1.Catalogue"

    def __init__(self, serving: Serving, catalogue: LiveCatalogue | None) -> None:
        self._serving = serving
        self._catalogue = catalogue

    def add_to(self, server: grpc.aio.Server, rpc: Rpc) -> None:
        """Register with a server that has not started."""
        name = self.name
        handlers = {
            "UpsertItems": rpc.unary(f"{name}/UpsertItems", pb.UpsertItemsRequest, self.upsert),
            "UpsertItemsStream": rpc.stream(
                f"{name}/UpsertItemsStream", pb.UpsertItemsStreamRequest, self.upsert_stream
            ),
            "DeleteItems": rpc.unary(f"{name}/DeleteItems", pb.DeleteItemsRequest, self.delete),
            "SetAvailability": rpc.unary(
                f"{name}/SetAvailability", pb.SetAvailabilityRequest, self.set_availability
            ),
            "GetItems": rpc.unary(f"{name}/GetItems", pb.GetItemsRequest, self.get),
            "ListItems": rpc.unary(f"{name}/ListItems", pb.ListItemsRequest, self.list),
        }
        register(server, name, handlers)

    async def upsert(self, request: pb.UpsertItemsRequest, call: Call) -> pb.UpsertItemsResponse:
        """Add or replace items."""
        done = await self._upsert(request.items, request.ByteSize())
        return pb.UpsertItemsResponse(
            catalogue_version=done.version,
            added_ids=done.added,
            replaced_ids=done.replaced,
            encode_us=min(done.encode_us, MOST_US),
        )

    async def upsert_stream(
        self, requests: AsyncIterator[pb.UpsertItemsStreamRequest], call: Call
    ) -> AsyncIterator[pb.UpsertItemsStreamResponse]:
        """Add or replace items, message by message: what follows an error is not looked at."""
        items = 0
        async for request in requests:
            done = await self._upsert(request.items, request.ByteSize())
            items += len(request.items)
            yield pb.UpsertItemsStreamResponse(catalogue_version=done.version, items=items)

    async def delete(self, request: pb.DeleteItemsRequest, call: Call) -> pb.DeleteItemsResponse:
        """Remove items."""
        catalogue, _ = self._live()
        check_ids(request.item_ids, catalogue.limits.ids, catalogue.limits)
        with catalogue.admitted(request.ByteSize()):
            done = await catalogue.delete(tuple(request.item_ids))
        return pb.DeleteItemsResponse(catalogue_version=done.version, unknown_ids=done.unknown)

    async def set_availability(
        self, request: pb.SetAvailabilityRequest, call: Call
    ) -> pb.SetAvailabilityResponse:
        """Say of items whether they can be bought."""
        catalogue, _ = self._live()
        check_ids(request.item_ids, catalogue.limits.ids, catalogue.limits)
        with catalogue.admitted(request.ByteSize()):
            done = await catalogue.set_available(tuple(request.item_ids), request.available)
        return pb.SetAvailabilityResponse(catalogue_version=done.version, unknown_ids=done.unknown)

    async def get(self, request: pb.GetItemsRequest, call: Call) -> pb.GetItemsResponse:
        """Return what is known of items."""
        catalogue, live = self._live()
        check_ids(request.item_ids, catalogue.limits.read_ids, catalogue.limits)
        item_ids = tuple(request.item_ids)
        found, unknown = states(live, item_ids, await catalogue.records(item_ids))
        return pb.GetItemsResponse(
            items=map(message_of, found),
            unknown_ids=unknown,
            catalogue_version=live.index.version,
        )

    async def list(self, request: pb.ListItemsRequest, call: Call) -> pb.ListItemsResponse:
        """Return a page of all items."""
        catalogue, live = self._live()
        size = _page_size(request.page_size, catalogue.limits)
        await catalogue.read(live.order.prepare)
        page = page_of(live, size, request.page_token)
        found, _ = states(live, page.item_ids, await catalogue.records(page.item_ids))
        return pb.ListItemsResponse(
            items=map(message_of, found),
            next_page_token=page.next_token,
            catalogue_version=live.index.version,
        )

    async def _upsert(self, items: Sequence[pb.Item], size: int) -> Done:
        catalogue, live = self._live()
        encoders, limits = live.reader.encoders, catalogue.limits
        with catalogue.admitted(size):
            # A thousand items with features take milliseconds: not on the event loop.
            drafts = await catalogue.read(lambda: drafts_of(items, encoders, limits))
            return await catalogue.upsert(drafts)

    def _live(self) -> tuple[LiveCatalogue, LiveRows]:
        if self._catalogue is None:
            raise NotLive(
                "the catalogue does not change here: the server was started without --catalogue"
            )
        return self._catalogue, self._catalogue.shown(self._serving.deployment().model)


def _page_size(asked: int, limits: CatalogueLimits) -> int:
    if asked > limits.page_size:
        raise InvalidRequest(
            f"page_size is {asked}; expected 1 to {limits.page_size}, or 0 for "
            f"{limits.default_page_size}"
        )
    return asked or limits.default_page_size


def message_of(state: State) -> pb.ItemState:
    """Translate an item's state."""
    return pb.ItemState(**state._asdict())
