"""Clients that are slow, half there, gone or too much, on a real server: others are answered."""

import asyncio
import random
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.serving import PATIENCE_S, Served, serving, start
from support.tally import SEED, Tally, rounds
from support.tiny_bundle import Shop, Sizes, publish

from mmsr.engine.client import RecommenderClient
from mmsr.v1 import recommender_pb2 as pb
from mmsr.v1 import recommender_pb2_grpc as pb_grpc

IDLE = 1000  # connections
STREAMS = rounds(40, 2000)
MESSAGES = rounds(60, 600)
SPARE_BYTES = 1 << 30  # of address space, beyond what the server has when it serves; see README
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
HALF_OF_HEADERS = b"\x00\x00\x40\x01\x04\x00\x00\x00\x01\x82"  # 64 bytes are promised
REFUSALS = {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "NOT_FOUND", "CANCELLED"}
DEADLINE_MS = 1e3 * PATIENCE_S


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish(tmp_path_factory.mktemp("shop") / "repository", Sizes(items=60, probes=8))


@pytest.fixture
def served(shop: Shop) -> Iterator[Served]:
    with serving(shop.root) as served:
        yield served
        assert served.process.poll() is None, served.log


def answers_rightly(shop: Shop, served: Served) -> bool:
    """Ask as a client of the package does."""
    right = [item for item, _ in shop.twin.recommend(["item-1"], 5, ["item-1"])]
    with RecommenderClient(served.target) as client:
        answer = client.recommend(["item-1"], k=5, deadline_ms=DEADLINE_MS)
    return [item for item, _ in answer.items] == right


def descriptors(served: Served) -> int:
    return len(list(Path(f"/proc/{served.process.pid}/fd").iterdir()))


def threads(served: Served) -> int:
    return len(list(Path(f"/proc/{served.process.pid}/task").iterdir()))


@contextmanager
def connected(served: Served, count: int, first_bytes: bytes) -> Iterator[list[socket.socket]]:
    """Hold connections on each of which a client has begun so, and does not go on."""
    host, _, port = served.target.rpartition(":")
    with ExitStack() as stack:
        sockets = []
        for _ in range(count):
            one = stack.enter_context(socket.create_connection((host, int(port)), PATIENCE_S))
            one.sendall(first_bytes)
            sockets.append(one)
        yield sockets


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process have as many connections as the scenarios hold."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, min(hard, 4 * IDLE)) if hard != resource.RLIM_INFINITY else 4 * IDLE
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize(
    "begun",
    [b"", PREFACE[:10], PREFACE + SETTINGS, PREFACE + SETTINGS + HALF_OF_HEADERS],
    ids=["nothing", "half a preface", "settings", "half a request"],
)
def test_idle_connections(shop: Shop, served: Served, tally: Tally, begun: bytes) -> None:
    """1,000 connections on which a client begins something and does not go on."""
    assert answers_rightly(shop, served)
    before = threads(served)
    with connected(served, IDLE, begun):
        if answers_rightly(shop, served) and threads(served) <= before + 8:
            tally.survived("others are answered; threads do not grow with connections")
        else:
            tally.lose(f"{threads(served)} threads, {before} before")
    tally.tried += IDLE - 1
    assert answers_rightly(shop, served)
    tally.check(at_least=IDLE)


def test_a_client_that_sends_byte_by_byte(shop: Shop, served: Served, tally: Tally) -> None:
    """A client that sends a request byte by byte while others ask."""
    with connected(served, 20, PREFACE + SETTINGS) as sockets:
        for n in range(len(HALF_OF_HEADERS)):
            for one in sockets:
                one.sendall(HALF_OF_HEADERS[n : n + 1])
            if answers_rightly(shop, served):
                tally.survived("others are answered meanwhile")
            else:
                tally.lose(f"wrong after byte {n}")
    tally.check(at_least=len(HALF_OF_HEADERS))


def test_cancelled_streams(shop: Shop, served: Served, tally: Tally) -> None:
    """Streams that are cancelled in the middle, or whose connection is gone."""
    choose = random.Random(SEED)

    async def one_stream(channel: grpc.aio.Channel) -> None:
        """Write some requests, read one answer or none, and cancel."""
        stream = pb_grpc.RecommenderStub(channel).RecommendStream(timeout=PATIENCE_S)
        for n in range(choose.randint(1, 20)):
            request = pb.RecommendRequest(history=[f"item-{n}"], k=3)
            await stream.write(pb.RecommendStreamRequest(key=str(n), request=request))
        if choose.random() < 0.5:
            await stream.read()
        stream.cancel()

    async def main() -> None:
        for _ in range(STREAMS // 10):
            async with grpc.aio.insecure_channel(served.target) as channel:
                await channel.channel_ready()
                await asyncio.gather(*(one_stream(channel) for _ in range(10)))

    assert answers_rightly(shop, served)
    before = descriptors(served), threads(served)
    asyncio.run(main())
    assert answers_rightly(shop, served)
    after = descriptors(served), threads(served)
    tally.tried += STREAMS - 1
    if after[0] <= before[0] + 10 and after[1] <= before[1] + 8:
        tally.survived("nothing is left of them: descriptors and threads are as before")
    else:
        tally.lose(f"descriptors and threads {before} before, {after} after")
    tally.check(at_least=STREAMS)


def hostile(choose: random.Random) -> tuple[str, bytes]:
    """Return a method and a message that is meant to take memory."""
    id_bytes = b"x" * choose.choice((1, 64, 2000))
    ids = [f"{id_bytes.decode()}{n}" for n in range(choose.choice((1000, 20_000)))]
    request = pb.RecommendRequest(history=ids, k=choose.choice((1, 1000, 2**31 - 1)))
    kind = choose.randrange(4)
    if kind == 0:
        return "RecommendBatch", pb.RecommendBatchRequest(
            requests=[pb.RecommendRequest(history=ids[:50], k=1000)] * 1024
        ).SerializeToString()
    if kind == 1:
        return "Score", pb.ScoreRequest(history=ids[:10], candidate_ids=ids).SerializeToString()
    if kind == 2:
        return "Recommend", b"\x0a\xff\xff\xff\x7f" + choose.randbytes(1 << 20)
    return "Recommend", request.SerializeToString()


@pytest.fixture
def bounded(shop: Shop) -> Iterator[Served]:
    """Start a server whose log may say that gRPC itself had no memory for a message."""
    served = start(shop.root)
    try:
        yield served
        assert served.stop() == 0, served.log
        errors = [line for line in served.lines if " ERROR " in line]
        assert not [line for line in errors if "MemoryError" not in line], served.log
    finally:
        served.process.kill()
        served.end()


def test_hostile_messages_against_a_memory_limit(shop: Shop, bounded: Served, tally: Tally) -> None:
    """Messages meant to take memory, on a server whose address space is bounded (RLIMIT_AS)."""
    choose = random.Random(SEED)
    assert answers_rightly(shop, bounded)
    pages = int(Path(f"/proc/{bounded.process.pid}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SPARE_BYTES
    resource.prlimit(bounded.process.pid, resource.RLIMIT_AS, (limit, limit))

    async def main() -> None:
        unbounded = ("grpc.max_send_message_length", "grpc.max_receive_message_length")
        options = [(name, -1) for name in unbounded]
        async with grpc.aio.insecure_channel(bounded.target, options=options) as channel:

            async def send(method: str, message: bytes) -> None:
                ask: Any = channel.unary_unary(f"/mmsr.v1.Recommender/{method}")  # bytes
                try:
                    await ask(message, timeout=PATIENCE_S)
                    tally.survived("answered")
                except grpc.aio.AioRpcError as error:
                    if error.code().name in REFUSALS:
                        tally.survived(f"refused with {error.code().name}")
                    else:
                        tally.lose(f"{method} of {len(message)} bytes: {error.code().name}")

            for _ in range(MESSAGES // 20):
                await asyncio.gather(*(send(*hostile(choose)) for _ in range(20)))

    asyncio.run(main())
    assert bounded.process.poll() is None, bounded.log
    assert answers_rightly(shop, bounded)
    tally.check(at_least=MESSAGES // 20 * 20)
