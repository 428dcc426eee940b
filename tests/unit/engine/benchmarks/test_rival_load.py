"""What the small generator sends and counts, and how its HTTP client treats a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.rivals.connections import CallError, HttpConnection
from benchmarks.rivals.load import Block, Loader, Plan

WINDOW_S = 0.05


class Answering:
    """Answers at once, and refuses every request that ends with an exclamation mark."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    async def call(self, request: bytes) -> bytes:
        self.requests.append(request)
        await asyncio.sleep(0)
        if request.endswith(b"!"):
            raise CallError("refused")
        return b"answer"

    async def renew(self) -> None:
        pass

    async def close(self) -> None:
        pass


def block_of(plan: Plan, requests: list[bytes]) -> tuple[Block, Answering]:
    connection = Answering()
    return asyncio.run(Loader(connection, requests).run(plan)), connection


def test_a_closed_loop_sends_the_requests_in_turn_and_counts_each_once() -> None:
    plan = Plan(concurrency=3, warm_up_s=0.0, duration_s=WINDOW_S)
    block, connection = block_of(plan, [b"a", b"b!"])
    assert connection.requests[:4] == [b"a", b"b!", b"a", b"b!"]
    assert len(block.latency_s) + block.failed == len(connection.requests)
    assert len(block.lag_s) == len(connection.requests)
    assert block.first_failure == "refused"
    assert block.all_answers == len(block.latency_s)


def test_an_open_loop_sends_as_many_as_were_drawn_whatever_comes_back() -> None:
    plan = Plan(rate_per_s=2000.0, warm_up_s=0.0, duration_s=WINDOW_S, seed=3)
    sent = [len(block_of(plan, [request])[1].requests) for request in (b"a", b"a!")]
    assert sent[0] == sent[1] > 0


def test_what_was_meant_for_the_warm_up_is_sent_and_not_counted() -> None:
    plan = Plan(rate_per_s=2000.0, warm_up_s=WINDOW_S, duration_s=WINDOW_S)
    block, connection = block_of(plan, [b"a"])
    assert len(block.latency_s) == len(block.lag_s) < len(connection.requests)
    assert block.all_answers == len(connection.requests)


@asynccontextmanager
async def serving(*answers: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Give one answer a request, whatever it says, and close the connection after the last."""
    bodies: list[bytes] = []
    left = list(answers)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while left:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            bodies.append(await reader.readexactly(length))
            writer.write(left.pop(0))
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], bodies


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def test_a_body_is_posted_and_the_answers_body_comes_back() -> None:
    async def ask() -> None:
        async with serving(answer(b"one"), answer(b"")) as (port, bodies):
            connection = HttpConnection(port, "/predict", 5.0)
            assert await connection.call(b"first") == b"one"
            assert await connection.call(b"second") == b""
            assert bodies == [b"first", b"second"]
            await connection.close()

    asyncio.run(ask())


def test_a_refusal_says_what_the_server_said() -> None:
    async def ask() -> None:
        async with serving(answer(b"too busy", b"503 Service Unavailable")) as (port, _):
            connection = HttpConnection(port, "/predict", 5.0)
            with pytest.raises(CallError, match=r"503.*too busy"):
                await connection.call(b"{}")
            await connection.close()

    asyncio.run(ask())


def test_an_answer_without_a_length_is_refused() -> None:
    async def ask() -> None:
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        async with serving(chunked) as (port, _):
            connection = HttpConnection(port, "/predict", 5.0)
            with pytest.raises(CallError, match="without a length"):
                await connection.call(b"{}")
            await connection.close()

    asyncio.run(ask())


def test_nobody_listening_is_a_failed_call() -> None:
    async def ask() -> None:
        async with serving() as (port, _):
            pass
        with pytest.raises(CallError, match="no connection"):
            await HttpConnection(port, "/predict", 5.0).call(b"{}")

    asyncio.run(ask())
