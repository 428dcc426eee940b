"""Typed clients of `mmsr.v1.Recommender`, one blocking and one for asyncio.

    with RecommenderClient("127.0.0.1:50051") as client:
        answer = client.recommend(["item-17", "item-4"], k=5, deadline_ms=50)

A status of the server comes back as the exception of `mmsr.engine.errors` that caused it.
`python -m mmsr.engine.client TARGET --history ID -k 5` asks once and prints a table.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mmsr.engine.errors import EngineError, InvalidRequest, Unavailable, from_status
from mmsr.engine.wire import RETRY_AFTER, SERVICE_NAME
from mmsr.v1 import recommender_pb2 as pb
from mmsr.v1 import recommender_pb2_grpc as pb_grpc

TIMEOUT_S = 10.0
# A server that has just been started is found at once, not at gRPC's first retry after a second.
OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendations:
    """The answer to one call."""

    items: tuple[tuple[str, float], ...]  # id and score, best first
    model_version: str
    queue_us: int
    compute_us: int
    batch_size: int
    unknown_ids: int  # of the history
    fallback: str | None  # "popularity", or None when the model answered
    # Which ones: each once, the first 100 of them; older servers name none.
    unknown_item_ids: tuple[str, ...] = ()


class RecommenderClient:
    """Blocking client; one instance may be shared by threads."""

    def __init__(self, target: str, timeout_s: float = TIMEOUT_S) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(target, options=OPTIONS)
        self._stub = pb_grpc.RecommenderStub(self._channel)

    def recommend(
        self,
        history: Iterable[str],
        k: int,
        *,
        excluded_ids: Iterable[str] = (),
        exclude_seen: bool | None = None,
        deadline_ms: float | None = None,
    ) -> Recommendations:
        """Return the best k items after `history` (oldest first); raise an `EngineError`.

        Without `deadline_ms` the client's `timeout_s` holds.
        """
        request = _request(history, k, excluded_ids, exclude_seen)
        timeout_s = self._timeout_s if deadline_ms is None else deadline_ms / 1e3
        try:
            return _recommendations(self._stub.Recommend(request, timeout=timeout_s))
        except grpc.RpcError as error:
            raise _typed(error) from None

    def wait_until_serving(self, deadline_s: float = 60.0) -> None:
        """Return once the server's health is SERVING; `Unavailable` after `deadline_s`."""
        ends = time.monotonic() + deadline_s
        stub = health_pb2_grpc.HealthStub(self._channel)
        request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        while (left_s := ends - time.monotonic()) > 0:
            watch = stub.Watch(request, timeout=left_s, wait_for_ready=True)
            try:
                for response in watch:
                    if _is_serving(response):
                        watch.cancel()
                        return
            except grpc.RpcError as error:
                _raise_unless_transient(error)
        raise _not_serving(self._target, deadline_s)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncRecommenderClient:
    """Client for asyncio; make it and use it on one event loop."""

    def __init__(self, target: str, timeout_s: float = TIMEOUT_S) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._channel = grpc.aio.insecure_channel(target, options=OPTIONS)
        self._stub = pb_grpc.RecommenderStub(self._channel)

    async def recommend(
        self,
        history: Iterable[str],
        k: int,
        *,
        excluded_ids: Iterable[str] = (),
        exclude_seen: bool | None = None,
        deadline_ms: float | None = None,
    ) -> Recommendations:
        """Return the best k items after `history` (oldest first); raise an `EngineError`.

        Without `deadline_ms` the client's `timeout_s` holds. Cancelling the task cancels the call.
        """
        request = _request(history, k, excluded_ids, exclude_seen)
        timeout_s = self._timeout_s if deadline_ms is None else deadline_ms / 1e3
        try:
            return _recommendations(await self._stub.Recommend(request, timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            raise _typed(error) from None

    async def wait_until_serving(self, deadline_s: float = 60.0) -> None:
        """Return once the server's health is SERVING; `Unavailable` after `deadline_s`."""
        ends = time.monotonic() + deadline_s
        stub = health_pb2_grpc.HealthStub(self._channel)
        request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        while (left_s := ends - time.monotonic()) > 0:
            watch = stub.Watch(request, timeout=left_s, wait_for_ready=True)
            try:
                async for response in watch:
                    if _is_serving(response):
                        watch.cancel()
                        return
            except grpc.aio.AioRpcError as error:
                _raise_unless_transient(error)
        raise _not_serving(self._target, deadline_s)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _request(
    history: Iterable[str], k: int, excluded_ids: Iterable[str], exclude_seen: bool | None
) -> pb.RecommendRequest:
    for name, ids in (("history", history), ("excluded_ids", excluded_ids)):
        if isinstance(ids, str):  # its letters would be taken for ids
            raise InvalidRequest(f"{name} is the text {ids!r}; expected a list of item ids")
    try:
        return pb.RecommendRequest(
            history=history, k=k, excluded_ids=excluded_ids, exclude_seen=exclude_seen
        )
    except ValueError as error:  # k is no uint32, or an id is no UTF-8
        raise InvalidRequest(
            f"the request cannot be encoded ({error}); expected a k from 1 to 1000 and ids in UTF-8"
        ) from None


def _recommendations(response: pb.RecommendResponse) -> Recommendations:
    popular = response.fallback == pb.FALLBACK_POPULARITY
    return Recommendations(
        items=tuple(zip(response.item_ids, response.scores, strict=True)),
        model_version=response.model_version,
        queue_us=response.queue_us,
        compute_us=response.compute_us,
        batch_size=response.batch_size,
        unknown_ids=response.unknown_ids,
        fallback="popularity" if popular else None,
        unknown_item_ids=tuple(response.unknown_item_ids),
    )


def _typed(error: Any) -> EngineError:
    """Translate gRPC's error, which is a call as well: code, details, trailing metadata."""
    metadata = dict(error.trailing_metadata() or ())
    retry = metadata.get(RETRY_AFTER)
    return from_status(error.code().name, error.details() or "", int(retry) if retry else None)


def _is_serving(response: Any) -> bool:
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


def _raise_unless_transient(error: Any) -> None:
    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        raise _typed(error) from None


def _not_serving(target: str, deadline_s: float) -> Unavailable:
    return Unavailable(f"{target} is not serving after {deadline_s:g} s; look at the server's log")


if __name__ == "__main__":
    from mmsr.engine.client_cli import main

    main()
