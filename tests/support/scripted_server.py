"""A real gRPC server of both services whose answers are told beforehand; keeps what it was sent."""

from collections import deque
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc

from mmsr.v1 import catalogue_pb2, catalogue_pb2_grpc, recommender_pb2, recommender_pb2_grpc


@dataclass(frozen=True)
class Status:
    """How a call ends instead of an answer."""

    code: grpc.StatusCode
    retry_after_ms: int | None = None


@dataclass
class Script:
    """The ends of the next calls; once it is empty, every call is answered."""

    ends: deque[Status] = field(default_factory=deque)
    metadata: list[dict[str, Any]] = field(default_factory=list)  # of each call
    items: dict[str, catalogue_pb2.Item] = field(default_factory=dict)

    def next(self, context: grpc.ServicerContext) -> None:
        """Note a call, and end it if the script says so."""
        self.metadata.append(dict(context.invocation_metadata()))
        if self.ends:
            self._end(context, self.ends.popleft())

    def _end(self, context: grpc.ServicerContext, status: Status) -> NoReturn:
        if status.retry_after_ms is not None:
            context.set_trailing_metadata((("retry-after-ms", str(status.retry_after_ms)),))
        context.abort(status.code, "as the script says")
        raise AssertionError("abort returned")


class Recommender(recommender_pb2_grpc.RecommenderServicer):
    """Recommends one item."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def _refuse(self, request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "the script knows no such method")

    RecommendBatch = Score = Similar = Explain = _refuse

    def RecommendStream(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        self._refuse(request_iterator, context)

    def Recommend(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._script.next(context)
        return recommender_pb2.RecommendResponse(item_ids=["item-1"], scores=[1.0])


class Catalogue(catalogue_pb2_grpc.CatalogueServicer):
    """Keeps items in memory; each write is a version."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._version = 0

    def UpsertItems(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._script.next(context)
        ids = [item.item_id for item in request.items]
        known = [item_id for item_id in ids if item_id in self._script.items]
        self._write(request.items)
        return catalogue_pb2.UpsertItemsResponse(
            catalogue_version=self._version,
            added_ids=[item_id for item_id in ids if item_id not in known],
            replaced_ids=known,
            encode_us=7,
        )

    def UpsertItemsStream(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        self._script.next(context)
        items = 0
        for request in request_iterator:
            self._write(request.items)
            items += len(request.items)
            yield catalogue_pb2.UpsertItemsStreamResponse(
                catalogue_version=self._version, items=items
            )

    def DeleteItems(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._script.next(context)
        unknown = [i for i in request.item_ids if self._script.items.pop(i, None) is None]
        self._version += 1
        return catalogue_pb2.DeleteItemsResponse(
            catalogue_version=self._version, unknown_ids=unknown
        )

    def SetAvailability(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._script.next(context)
        known = [self._script.items[i] for i in request.item_ids if i in self._script.items]
        for item in known:
            item.available = request.available
        self._version += 1
        return catalogue_pb2.SetAvailabilityResponse(
            catalogue_version=self._version,
            unknown_ids=[i for i in request.item_ids if i not in self._script.items],
        )

    def GetItems(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._script.next(context)
        items = self._script.items
        return catalogue_pb2.GetItemsResponse(
            items=[_state(items[i]) for i in request.item_ids if i in items],
            unknown_ids=[i for i in request.item_ids if i not in items],
            catalogue_version=self._version,
        )

    def ListItems(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._script.next(context)
        later = sorted(i for i in self._script.items if i > request.page_token)
        page = later[: request.page_size or 100]
        return catalogue_pb2.ListItemsResponse(
            items=[_state(self._script.items[i]) for i in page],
            next_page_token=page[-1] if len(page) < len(later) else "",
            catalogue_version=self._version,
        )

    def _write(self, items: Any) -> None:
        self._version += 1
        self._script.items.update({item.item_id: item for item in items})


def _state(item: catalogue_pb2.Item) -> catalogue_pb2.ItemState:
    return catalogue_pb2.ItemState(
        item_id=item.item_id,
        title=item.title,
        categories=item.categories,
        available=item.available if item.HasField("available") else True,
        popularity=item.popularity,
        live=True,
        modalities=["text"],
    )


@contextmanager
def scripted(script: Script, credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
    """Serve on a free port; give HOST:PORT."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    recommender_pb2_grpc.add_RecommenderServicer_to_server(Recommender(script), server)
    catalogue_pb2_grpc.add_CatalogueServicer_to_server(Catalogue(script), server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
