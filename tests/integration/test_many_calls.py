"""More calls on one connection than it may have at a time: they wait, and none is refused."""

import asyncio
from pathlib import Path

import grpc
import pytest
from support.in_process import PATIENCE_S, RECOMMEND, asking, call, plain, running
from support.tiny_bundle import Sizes, publish

from mmsr.engine.config import BatchConfig, SecurityConfig
from mmsr.v1 import recommender_pb2 as pb

AT_A_TIME = 16
CALLS = 400
ROUNDS = 3
MANY = BatchConfig(pending_limit=2 * CALLS, queue_limit=2 * CALLS)


@pytest.mark.parametrize("at_a_time", [AT_A_TIME, 1])
def test_calls_beyond_those_of_a_connection_wait_for_their_turn(
    tmp_path: Path, at_a_time: int
) -> None:
    shop = publish(tmp_path / "repository", Sizes(items=60, probes=4))
    right = [item_id for item_id, _ in shop.twin.recommend(["item-1"], 3, ["item-1"])]

    async def ask(channel: grpc.aio.Channel) -> list[str]:
        answer = await call(channel, asking("item-1"), method=RECOMMEND)
        return list(pb.RecommendResponse.FromString(answer).item_ids)

    async def main() -> None:
        limits = SecurityConfig(connection_calls=at_a_time)
        async with running(shop, batch=MANY, security=limits) as server, plain(server) as channel:
            for _ in range(ROUNDS):
                answers = await asyncio.gather(*(ask(channel) for _ in range(CALLS)))
                assert answers == [right] * CALLS

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
