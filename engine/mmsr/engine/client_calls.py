"""One channel to a server and the calls on it, sent again where that helps. Knows no method."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Generic, Self, TypeVar

import grpc

from mmsr.engine.client_connection import Connection, open_aio_channel, open_channel, typed
from mmsr.engine.client_retry import Retries, Retrying
from mmsr.engine.errors import EngineError

Value = TypeVar("Value")
Message = TypeVar("Message")
Answer = TypeVar("Answer")

TIMEOUT_S = 10.0


class Feed(Generic[Value, Message]):
    """A caller's values as the messages of a stream.

    One that cannot be sent ends them: gRPC would hide the error behind one of its own.
    """

    def __init__(
        self, values: AsyncIterable[Value] | Iterable[Value], encode: Callable[[Value], Message]
    ) -> None:
        self._values = values
        self._encode = encode
        self._failure: EngineError | None = None

    def __iter__(self) -> Iterator[Message]:
        assert isinstance(self._values, Iterable)
        try:
            yield from map(self._encode, self._values)
        except EngineError as error:
            self._failure = error

    async def __aiter__(self) -> AsyncIterator[Message]:
        try:
            if isinstance(self._values, AsyncIterable):
                async for value in self._values:
                    yield self._encode(value)
            else:
                for value in self._values:
                    yield self._encode(value)
        except EngineError as error:
            self._failure = error

    def check(self) -> None:
        """Raise why a value could not be sent, if one could not."""
        if self._failure is not None:
            raise self._failure


class Calls:
    """Blocking calls; may be shared by threads."""

    def __init__(
        self,
        target: str,
        timeout_s: float = TIMEOUT_S,
        *,
        connection: Connection | None = None,
        retries: Retries | None = None,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """Open a channel to `target`; a call may take `timeout_s` unless it says otherwise.

        `retries`: None sends as often as the default of `Retries` does; `Retries(tries=1)` once.
        """
        connection = connection or Connection()
        self._target = target
        self._timeout_s = timeout_s
        self._metadata = connection.metadata()
        self._retrying = Retrying(retries or Retries())
        self._pause = pause
        self._channel = open_channel(target, connection)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(
        self,
        method: Any,
        request: Message,
        read: Callable[[Any], Answer],
        deadline_ms: float | None,
    ) -> Answer:
        """Call until there is an answer, or an error that no other try would change."""
        tries = self._retrying.begin(self._timeout_s if deadline_ms is None else deadline_ms / 1e3)
        while True:
            try:
                response = method(request, timeout=tries.left_s(), metadata=self._metadata)
            except grpc.RpcError as failure:
                error = typed(failure)
                wait_s = tries.wait_s(error)
                if wait_s is None:
                    raise error from None
                self._pause(wait_s)
            else:
                tries.succeeded()
                return read(response)

    def _stream(
        self,
        method: Any,
        messages: "Feed[Any, Message]",
        read: Callable[[Any], Answer],
        deadline_ms: float | None,
    ) -> Iterator[Answer]:
        """Yield the answers of a stream; it is sent once. Whoever stops iterating cancels it."""
        timeout_s = None if deadline_ms is None else deadline_ms / 1e3
        call = method(iter(messages), timeout=timeout_s, metadata=self._metadata)
        try:
            for response in call:
                yield read(response)
        except grpc.RpcError as failure:
            raise typed(failure) from None
        finally:
            call.cancel()
        messages.check()


class AsyncCalls:
    """Calls for asyncio; made and used on one event loop. Cancelling a task cancels its call."""

    def __init__(
        self,
        target: str,
        timeout_s: float = TIMEOUT_S,
        *,
        connection: Connection | None = None,
        retries: Retries | None = None,
    ) -> None:
        """Open a channel; see `Calls`."""
        connection = connection or Connection()
        self._target = target
        self._timeout_s = timeout_s
        self._metadata = connection.metadata()
        self._retrying = Retrying(retries or Retries())
        self._channel = open_aio_channel(target, connection)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(
        self,
        method: Any,
        request: Message,
        read: Callable[[Any], Answer],
        deadline_ms: float | None,
    ) -> Answer:
        tries = self._retrying.begin(self._timeout_s if deadline_ms is None else deadline_ms / 1e3)
        while True:
            try:
                response = await method(request, timeout=tries.left_s(), metadata=self._metadata)
            except grpc.aio.AioRpcError as failure:
                error = typed(failure)
                wait_s = tries.wait_s(error)
                if wait_s is None:
                    raise error from None
                await asyncio.sleep(wait_s)
            else:
                tries.succeeded()
                return read(response)

    async def _stream(
        self,
        method: Any,
        messages: "Feed[Any, Message]",
        read: Callable[[Any], Answer],
        deadline_ms: float | None,
    ) -> AsyncIterator[Answer]:
        timeout_s = None if deadline_ms is None else deadline_ms / 1e3
        call = method(aiter(messages), timeout=timeout_s, metadata=self._metadata)
        try:
            async for response in call:
                yield read(response)
        except grpc.aio.AioRpcError as failure:
            raise typed(failure) from None
        finally:
            call.cancel()
        messages.check()
