import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mmsr.engine.health import NOT_SERVING, SERVICE_UNKNOWN, SERVING, Health

PATIENCE_S = 60.0
Main = Callable[[Health, Any], Coroutine[Any, Any, None]]


def over_a_socket(main: Main) -> None:
    async def inside() -> None:
        health = Health(("", "shop"))
        server = grpc.aio.server()
        health.add_to(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                await asyncio.wait_for(main(health, stub), PATIENCE_S)
        finally:
            await server.stop(0)

    asyncio.run(inside())


def asked(service: str) -> Any:
    return health_pb2.HealthCheckRequest(service=service)


@pytest.mark.parametrize("service", ["", "shop"])
def test_check_says_the_status_now(service: str) -> None:
    async def main(health: Health, stub: Any) -> None:
        assert (await stub.Check(asked(service))).status == NOT_SERVING
        health.set(serving=True)
        assert (await stub.Check(asked(service))).status == SERVING

    over_a_socket(main)


def test_check_of_an_unknown_service_is_not_found() -> None:
    async def main(health: Health, stub: Any) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Check(asked("bakery"))
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND

    over_a_socket(main)


def test_watch_tells_every_change_to_every_watcher_and_ends_when_closed() -> None:
    async def main(health: Health, stub: Any) -> None:
        leaver, stayer = stub.Watch(asked("shop")), stub.Watch(asked("shop"))
        for stream in (leaver, stayer):
            assert (await stream.read()).status == NOT_SERVING
        health.set(serving=True)
        for stream in (leaver, stayer):
            assert (await stream.read()).status == SERVING
        leaver.cancel()
        health.set(serving=False)
        assert (await stayer.read()).status == NOT_SERVING
        health.close()
        assert await stayer.read() is grpc.aio.EOF

    over_a_socket(main)


def test_watch_of_an_unknown_service_says_so_and_stays() -> None:
    async def main(health: Health, stub: Any) -> None:
        stream = stub.Watch(asked("bakery"))
        assert (await stream.read()).status == SERVICE_UNKNOWN
        health.set(serving=True)
        health.close()
        assert await stream.read() is grpc.aio.EOF

    over_a_socket(main)
