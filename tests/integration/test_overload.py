"""More calls than the process can read: gRPC ends them at once, and the rest is answered."""

import asyncio
import threading
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.in_process import PATIENCE_S, RECOMMEND, asking, running
from support.tiny_bundle import Shop, publish

from mmsr.engine.config import BatchConfig, ObserveConfig
from mmsr.engine.errors import Unavailable, from_status
from mmsr.v1 import admin_pb2
from mmsr.v1.admin_pb2_grpc import AdminStub

LIMIT = 8
CALLS = 50


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish(tmp_path_factory.mktemp("shop") / "repository")


class Ends:
    """How calls ended, as gRPC's own threads tell it."""

    def __init__(self) -> None:
        self.codes: list[grpc.StatusCode] = []
        self._news = threading.Condition()

    def __call__(self, call: Any) -> None:  # a future of grpc, with a code
        with self._news:
            self.codes.append(call.code())
            self._news.notify_all()

    def wait_for(self, count: int) -> None:
        """Block until so many calls have ended."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.codes) >= count, PATIENCE_S), self.codes


def test_what_a_busy_process_cannot_read_is_refused_without_it(shop: Shop, tmp_path: Path) -> None:
    async def main() -> None:
        batch = BatchConfig(pending_limit=LIMIT)
        async with running(shop, batch=batch) as server:
            with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                ask: Any = channel.unary_unary(f"/{RECOMMEND}")  # bytes to bytes
                message = asking("item-1").SerializeToString()
                first = ask.future(message, timeout=PATIENCE_S)  # connects
                await asyncio.to_thread(first.result)
                ends = Ends()
                for _ in range(CALLS):
                    ask.future(message, timeout=PATIENCE_S).add_done_callback(ends)
                # From here on the event loop stands still: nothing of ours reads a call.
                ends.wait_for(CALLS - LIMIT - 2)  # one was asked for before, one is over the limit
                assert set(ends.codes) == {grpc.StatusCode.CANCELLED}
                await asyncio.to_thread(ends.wait_for, CALLS)
                answered = ends.codes.count(grpc.StatusCode.OK)
                assert LIMIT <= answered <= LIMIT + 2
                assert ends.codes.count(grpc.StatusCode.CANCELLED) == CALLS - answered

    asyncio.run(asyncio.wait_for(main(), 2 * PATIENCE_S))


def test_what_asks_whether_the_server_lives_is_answered_by_a_busy_process(shop: Shop) -> None:
    """Else it would be killed when it is needed most. gRPC counts unread calls by method."""

    async def main() -> None:
        batch, observe = BatchConfig(pending_limit=LIMIT), ObserveConfig(metrics_port=0)
        async with running(shop, batch=batch, observe=observe, admin_port=0) as server:
            with (
                grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
                grpc.insecure_channel(f"127.0.0.1:{server.admin_port}") as admin,
            ):
                ask: Any = channel.unary_unary(f"/{RECOMMEND}")
                message = asking("item-1").SerializeToString()
                for stub in map(health_pb2_grpc.HealthStub, (channel, admin)):  # connects
                    await asyncio.to_thread(check, stub)
                ends = Ends()
                for _ in range(CALLS):
                    ask.future(message, timeout=PATIENCE_S).add_done_callback(ends)
                ends.wait_for(CALLS - LIMIT - 2)
                # The event loop stands still, and gRPC holds as many of these calls as it may.
                for path in ("livez", "readyz"):
                    url = f"http://127.0.0.1:{server.telemetry.port}/{path}"
                    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                        assert (answer.status, answer.read()) == (200, b"ok\n")
                stubs = [health_pb2_grpc.HealthStub(way) for way in (channel, admin)]
                status = AdminStub(admin).GetStatus.future(admin_pb2.GetStatusRequest())
                held = [stub.Check.future(health_pb2.HealthCheckRequest()) for stub in stubs]
                for waiting in held:  # held, not refused: each has its answer later
                    answered = await asyncio.to_thread(waiting.result, PATIENCE_S)
                    assert answered.status == health_pb2.HealthCheckResponse.SERVING
                assert (await asyncio.to_thread(status.result, PATIENCE_S)).models
                await asyncio.to_thread(ends.wait_for, CALLS)

    asyncio.run(asyncio.wait_for(main(), 2 * PATIENCE_S))


def check(stub: health_pb2_grpc.HealthStub) -> int:
    request = health_pb2.HealthCheckRequest()
    return int(stub.Check(request, timeout=PATIENCE_S).status)


def test_to_a_client_that_is_a_server_to_be_tried_again() -> None:
    error = from_status("CANCELLED", "CANCELLED", None)
    assert isinstance(error, Unavailable)
    assert "more calls wait than it reads" in str(error)
