"""What becomes of calls whose callers leave, over a real socket; the thread computes when told."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from support.tiny_bundle import Shop

from mmsr.engine.batcher import Batcher
from mmsr.engine.client import AsyncRecommenderClient, Request, Retries, StreamRequest
from mmsr.engine.compute import ComputeThread
from mmsr.engine.config import ServeConfig, ServerConfig
from mmsr.engine.server import Server
from mmsr.engine.stream import IN_FLIGHT

PATIENCE_S = 60.0
ASK = Request(history=["item-1"], k=3)
Main = Callable[[AsyncRecommenderClient, Batcher[Any, Any]], Coroutine[Any, Any, None]]


def while_computing(shop: Shop, main: Main) -> None:
    """Run `main` while the computing thread is held up by something else."""

    async def inside() -> None:
        loop = asyncio.get_running_loop()
        compute = ComputeThread(loop)
        config = ServeConfig(
            server=ServerConfig(repository=shop.root, port=0, threads=1, lame_duck_s=0.0)
        )
        server = Server(config, compute)
        await server.listen()
        compute.start()
        await server.load(shop.folder)
        release = threading.Event()
        compute.submit(release.wait, lambda result, error: None)
        assert server.deployment is not None
        target = f"127.0.0.1:{server.port}"
        try:
            async with AsyncRecommenderClient(
                target, PATIENCE_S, retries=Retries(tries=1)
            ) as client:
                await asyncio.wait_for(main(client, server.deployment.batcher), PATIENCE_S)
        finally:
            release.set()
            await server.stop()
            compute.close()

    asyncio.run(inside())


async def until(met: Callable[[], bool]) -> None:
    while not met():
        await asyncio.sleep(0)


async def endless(sent: list[int]) -> AsyncIterator[StreamRequest]:
    while True:
        sent.append(len(sent))
        yield StreamRequest(key=str(len(sent)), request=ASK)


async def read(answers: AsyncIterator[Any]) -> None:
    async for _ in answers:
        pass


def test_a_stream_is_read_no_further_than_it_is_answered(shop: Shop) -> None:
    async def main(client: AsyncRecommenderClient, batcher: Batcher[Any, Any]) -> None:
        call = asyncio.create_task(read(client.recommend_stream(endless([]))))
        await until(lambda: batcher.unanswered == IN_FLIGHT)
        for _ in range(200):
            await asyncio.sleep(0)
            assert batcher.unanswered == IN_FLIGHT
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    while_computing(shop, main)


@pytest.mark.parametrize("what", ["stream", "batch", "single"])
def test_a_caller_that_leaves_takes_its_requests_out_of_the_queue(shop: Shop, what: str) -> None:
    async def main(client: AsyncRecommenderClient, batcher: Batcher[Any, Any]) -> None:
        first = asyncio.create_task(client.recommend(["item-1"], 3))  # the batch that waits
        await until(lambda: batcher.unanswered == 1 and batcher.depth == 0)
        ask: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "stream": lambda: read(client.recommend_stream(endless([]))),
            "batch": lambda: client.recommend_batch([ASK] * 100),
            "single": partial(client.recommend, ["item-2"], 3),
        }
        call = asyncio.create_task(ask[what]())
        queued = {"stream": IN_FLIGHT, "batch": 100, "single": 1}[what]
        await until(lambda: batcher.depth == queued)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: batcher.depth == 0)
        assert batcher.unanswered == 1
        first.cancel()

    while_computing(shop, main)
