"""The server's states, step by step in one process: the computing thread starts when told."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.serving import config_of
from support.tiny_bundle import Shop, make_twin, manifest_of, seal

from mmsr.bundle.catalogue import load_catalogue
from mmsr.engine.asides import Asides
from mmsr.engine.batch_times import BatchTimes
from mmsr.engine.batcher import Batcher
from mmsr.engine.catalogue.named_filters import NamedFilters
from mmsr.engine.catalogue.placement import Placement
from mmsr.engine.client import AsyncRecommenderClient, Recommendations, RecommenderClient
from mmsr.engine.compute import ComputeThread
from mmsr.engine.config import BatchConfig, Limits
from mmsr.engine.deployment import Deployment
from mmsr.engine.errors import (
    ConfigError,
    InvalidRequest,
    ListenError,
    ProbeFailed,
    RunnerFailed,
    Unavailable,
)
from mmsr.engine.filters import RowFilters
from mmsr.engine.health import NOT_SERVING, SERVING
from mmsr.engine.items import ItemIndex
from mmsr.engine.model import RowAnswer, RowRequest
from mmsr.engine.server import Server, bind, loaded, port_file
from mmsr.engine.service import ModelFacts, Query, Reply, Service

PATIENCE_S = 60.0
Main = Callable[[Server, ComputeThread, AsyncRecommenderClient], Coroutine[Any, Any, None]]


def with_server(shop: Shop, main: Main, lame_duck_s: float = 0.0) -> None:
    async def inside() -> None:
        compute = ComputeThread(asyncio.get_running_loop())
        config = config_of(shop, lame_duck_s=lame_duck_s)
        server = Server(config, compute)
        await server.listen()
        try:
            async with AsyncRecommenderClient(f"127.0.0.1:{server.port}", PATIENCE_S) as client:
                await asyncio.wait_for(main(server, compute, client), PATIENCE_S)
        finally:
            await server.stop()
            compute.close()

    asyncio.run(inside())


async def health_of(server: Server) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        request = health_pb2.HealthCheckRequest(service="mmsr.v1.Recommender")
        return int((await health_pb2_grpc.HealthStub(channel).Check(request)).status)


def test_a_server_serves_only_between_its_start_and_its_stop(shop: Shop) -> None:
    async def main(server: Server, compute: ComputeThread, client: AsyncRecommenderClient) -> None:
        loading = asyncio.create_task(server.load(shop.folder))
        assert await health_of(server) == NOT_SERVING
        with pytest.raises(Unavailable, match="the server is starting"):
            await client.recommend(["item-1"], k=3)
        compute.start()
        await loading
        assert await health_of(server) == SERVING
        assert (await client.recommend(["item-1"], k=3)).items
        server.health.set(serving=False)
        server.serving.refuse(Unavailable("the server is stopping"))
        assert await health_of(server) == NOT_SERVING
        with pytest.raises(Unavailable, match="the server is stopping"):
            await client.recommend(["item-1"], k=3)

    with_server(shop, main)


async def load(server: Server, compute: ComputeThread, shop: Shop) -> None:
    compute.start()
    await server.load(shop.folder)


def test_a_server_told_to_stop_goes_on_answering_for_a_while(shop: Shop) -> None:
    async def main(server: Server, compute: ComputeThread, client: AsyncRecommenderClient) -> None:
        await load(server, compute, shop)
        stopping = asyncio.create_task(server.stop())
        while await health_of(server) == SERVING:
            pass  # until it has begun to stop
        answered: list[Recommendations] = []
        with pytest.raises(Unavailable, match="the server is stopping"):
            await ask_on(client, answered)
        assert len(answered) > 1
        assert await stopping == 0

    with_server(shop, main, lame_duck_s=0.5)


async def ask_on(client: AsyncRecommenderClient, answered: list[Recommendations]) -> None:
    while True:
        answered.append(await client.recommend(["item-1"], k=3))


def test_a_server_that_nobody_asks_stops_at_once(shop: Shop) -> None:
    async def main(server: Server, compute: ComputeThread, client: AsyncRecommenderClient) -> None:
        await load(server, compute, shop)
        began = time.monotonic()
        assert await server.stop() == 0
        assert time.monotonic() - began < PATIENCE_S / 2

    with_server(shop, main, lame_duck_s=10 * PATIENCE_S)


def test_what_is_being_computed_when_the_grace_is_over_is_counted_as_lost(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        compute = ComputeThread(asyncio.get_running_loop())
        config = config_of(shop, grace_s=0.2)
        server = Server(config, compute)
        await server.listen()
        await load(server, compute, shop)
        started, release = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()
        compute.submit(partial(hold, loop, started, release), lambda result, error: None)
        await started.wait()
        async with AsyncRecommenderClient(f"127.0.0.1:{server.port}", PATIENCE_S) as client:
            calls = [asyncio.create_task(client.recommend(["item-1"], k=3)) for _ in range(3)]
            assert server.deployment is not None
            while server.deployment.batcher.unanswered < 3:
                await asyncio.sleep(0)
            assert await server.stop() == 3
            ends = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(end, Unavailable) for end in ends)
        release.set()
        compute.close()
        assert compute.join(PATIENCE_S)

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    assert "0.2 s of grace are over: 3 requests are lost" in caplog.text


def hold(loop: asyncio.AbstractEventLoop, started: asyncio.Event, release: threading.Event) -> None:
    loop.call_soon_threadsafe(started.set)
    release.wait()


@pytest.mark.parametrize("message", [b"garbage", b"\x0a\x02\xff\xfe\x10\x05"])
def test_a_malformed_message_is_the_callers_fault(
    shop: Shop, caplog: pytest.LogCaptureFixture, message: bytes
) -> None:
    async def main(server: Server, compute: ComputeThread, client: AsyncRecommenderClient) -> None:
        await load(server, compute, shop)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call: Any = channel.unary_unary("/mmsr.v1.Recommender/Recommend")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(message)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        expected = f"{len(message)} bytes that are no mmsr.v1.RecommendRequest"
        assert expected in (refused.value.details() or "")
        assert (await client.recommend(["item-1"], k=3)).items

    with_server(shop, main)
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("history", "k"), [(["item-1"], -1), (["item-1"], 5_000_000_000), (["\udcff"], 3)]
)
def test_what_cannot_be_sent_is_an_invalid_request(history: list[str], k: int) -> None:
    with (
        RecommenderClient("127.0.0.1:1") as client,
        pytest.raises(InvalidRequest, match=r"cannot be encoded \(.*\); expected a k from 1"),
    ):
        client.recommend(history, k)


def test_a_bundle_with_the_tables_of_another_training_is_not_served(copy: Path, shop: Shop) -> None:
    other = make_twin(shop.sizes, seed=9)
    np.save(copy / "tables" / "item_inputs.npy", other.inputs_CW)
    (copy / "manifest.json").unlink()
    seal(copy, manifest_of(shop.sizes))

    async def main(server: Server, compute: ComputeThread, client: AsyncRecommenderClient) -> None:
        compute.start()
        with pytest.raises(ProbeFailed, match="does not answer like PyTorch"):
            await server.load(copy)
        assert await health_of(server) == NOT_SERVING
        with pytest.raises(Unavailable, match="the server is starting"):
            await client.recommend(["item-1"], k=3)

    with_server(shop, main)


def test_a_failure_inside_tells_the_caller_no_details(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue = load_catalogue(shop.folder)
    items = ItemIndex(catalogue)
    filters = NamedFilters(RowFilters(catalogue, shop.sizes.capacity), Placement())
    facts = ModelFacts("0123456789abcdef", 12, True)

    async def main(server: Server, compute: ComputeThread, client: AsyncRecommenderClient) -> None:
        compute.start()
        batcher = Batcher[RowRequest, RowAnswer](
            fail, compute, BatchConfig(), clock=time.monotonic, times=BatchTimes()
        )
        use(server, Service(items, batcher, facts, Limits(), filters))
        with pytest.raises(RunnerFailed, match=r"^the computation failed$"):
            await client.recommend(["item-1"], k=3)
        use(server, BrokenService(items, batcher, facts, Limits(), filters))
        with pytest.raises(RunnerFailed, match=r"^internal error$"):
            await client.recommend(["item-1"], k=3)

    with_server(shop, main)
    assert caplog.text.count("Traceback") == 2
    assert caplog.text.count("ValueError: the secret of the house") == 2


def use(server: Server, service: Service) -> None:
    nothing: Any = None
    asides = Asides(ComputeThread(asyncio.get_running_loop()), clock=time.monotonic)
    deployment = Deployment(
        model=nothing,
        batcher=service.batcher,
        service=service,
        asides=asides,
        similar=nothing,
        explaining=nothing,
    )
    server.serving.use("stable", deployment)


def fail(jobs: object) -> list[RowAnswer]:
    raise ValueError("the secret of the house")


class BrokenService(Service):
    async def recommend(self, query: Query, deadline: float | None = None) -> Reply:
        raise ValueError("the secret of the house")


def test_an_order_to_stop_ends_the_loading() -> None:
    async def main() -> None:
        stopping, never = asyncio.Event(), asyncio.Event()

        async def load() -> None:
            stopping.set()
            await never.wait()

        assert not await loaded(load(), stopping)

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def test_what_fails_while_loading_is_raised() -> None:
    async def load() -> None:
        raise ConfigError("no")

    async def main() -> None:
        with pytest.raises(ConfigError):
            await loaded(load(), asyncio.Event())

    asyncio.run(main())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_that_is_taken_is_told(host: str) -> None:
    async def main() -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, 0), family=family) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ListenError, match=f"{host}:{port}: address already in use"):
                bind(grpc.aio.server(), host, port)

    asyncio.run(main())


def test_an_address_of_another_machine_is_told() -> None:
    async def main() -> None:
        with pytest.raises(ListenError, match=r"192\.0\.2\.1:0: cannot assign"):
            bind(grpc.aio.server(), "192.0.2.1", 0)

    asyncio.run(main())


def test_the_port_file_is_there_as_long_as_the_server_serves(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "port"
    with port_file(path, 1234):
        assert path.read_text() == "1234\n"
    assert not path.exists()


def test_a_port_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match="cannot be written"),
        port_file(tmp_path / "file" / "port", 1),
    ):
        raise AssertionError("unreachable")
