"""Open connections to a server, gRPC or HTTP/1.1: bytes out, bytes in. Knows nothing of loads.

HTTP is written by hand because a client must not be what is measured: on one core an answer costs
this one a fifth of what the Python libraries take. It reads what these servers send, answers with
a Content-Length, and refuses everything else.
"""

import asyncio
from collections import deque
from typing import Protocol, cast

import grpc

from mmsr.bundle.errors import MmsrError

GRPC_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]
END_OF_HEAD = b"\r\n\r\n"
LENGTH = b"content-length:"
OK_LINE = b"HTTP/1.1 200"
MOST_CONNECTIONS = 512


class CallError(MmsrError):
    """A server answered with an error, or not at all."""


class Connection(Protocol):
    """What requests are sent over. For one event loop."""

    async def call(self, request: bytes) -> bytes:
        """Send an encoded request and return the encoded answer; `CallError`."""

    async def renew(self) -> None:
        """Forget what may have become stale while nothing was sent."""

    async def close(self) -> None:
        """Close it."""


class GrpcConnection:
    """One channel, one method."""

    def __init__(self, port: int, method: str, timeout_s: float) -> None:
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=GRPC_OPTIONS)
        self._method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            method
        )
        self._timeout_s = timeout_s

    async def call(self, request: bytes) -> bytes:
        """Send an encoded message and return the encoded answer; `CallError`."""
        try:
            return await self._method(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise CallError(f"{error.code().name}: {error.details()}") from None

    async def renew(self) -> None:
        """Keep the channel: it finds out by itself."""

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


class HttpConnection:
    """As many kept-alive sockets as there are requests under way; each carries one at a time."""

    def __init__(self, port: int, path: str, timeout_s: float) -> None:
        self._port = port
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            "Content-Length: "
        ).encode()
        self._timeout_s = timeout_s
        self._free: deque[_Socket] = deque()
        self._limit = asyncio.Semaphore(MOST_CONNECTIONS)
        self._all: set[_Socket] = set()

    async def call(self, request: bytes) -> bytes:
        """Send a JSON body and return the body of the answer; `CallError`."""
        async with self._limit:
            used = self._idle() or await self._open()
            try:
                async with asyncio.timeout(self._timeout_s):
                    head = self._head + str(len(request)).encode() + END_OF_HEAD
                    body = await used.exchange(head + request)
            except TimeoutError:
                used.close()
                raise CallError(f"no answer after {self._timeout_s:g} s") from None
            if used.is_open:
                self._free.append(used)
        return body

    def _idle(self) -> "_Socket | None":
        while self._free:
            used = self._free.pop()
            if used.is_open:  # servers close what was idle for some seconds
                return used
        return None

    async def _open(self) -> "_Socket":
        loop = asyncio.get_running_loop()
        try:
            _, found = await loop.create_connection(_Socket, "127.0.0.1", self._port)
        except OSError as error:
            raise CallError(f"no connection: {error}") from None
        self._all.add(found)
        return found

    async def renew(self) -> None:
        """Close the sockets: a server that was paused may be about to close them itself."""
        for one in self._all:
            one.close()
        self._all.clear()
        self._free.clear()

    async def close(self) -> None:
        """Close the sockets."""
        await self.renew()


class _Socket(asyncio.Protocol):
    """One request at a time, one answer."""

    def __init__(self) -> None:
        self._read = bytearray()
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.WriteTransport | None = None
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's class is none of asyncio's, and does the same.
        self._transport, self.is_open = cast(asyncio.WriteTransport, transport), True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(CallError("the server closed the connection"))

    def exchange(self, request: bytes) -> asyncio.Future[bytes]:
        """Send a request; the future is its answer's body."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._read += data
        head_ends = self._read.find(END_OF_HEAD)
        if head_ends < 0 or self._answer is None or self._answer.done():
            return
        head = bytes(self._read[:head_ends])
        length = content_length(head)
        starts = head_ends + len(END_OF_HEAD)
        if length is None:
            self.close()
            self._answer.set_exception(CallError(f"an answer without a length: {head[:80]!r}"))
        elif len(self._read) >= starts + length:
            body = bytes(self._read[starts : starts + length])
            self._read.clear()
            if head.startswith(OK_LINE):
                self._answer.set_result(body)
            else:
                self._answer.set_exception(CallError(f"{head[:40]!r}: {body[:120]!r}"))

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.close()


def content_length(head: bytes) -> int | None:
    """Return what an answer's head says of its body, None if it says nothing."""
    lower = head.lower()
    at = lower.find(LENGTH)
    if at < 0:
        return None
    return int(lower[at + len(LENGTH) :].split(b"\r\n", 1)[0])
