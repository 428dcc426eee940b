"""The whole server on the test's own event loop, over a real socket."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypedDict, Unpack

import grpc
from google.protobuf.message import Message
from support.tiny_bundle import Shop

from mmsr.engine.compute import ComputeThread
from mmsr.engine.config import (
    BatchConfig,
    CatalogueConfig,
    ObserveConfig,
    SecurityConfig,
    ServeConfig,
    ServerConfig,
)
from mmsr.engine.server import Server
from mmsr.v1 import recommender_pb2 as pb

PATIENCE_S = 60.0
RECOMMEND = "mmsr.v1.Recommender/Recommend"


class Sections(TypedDict, total=False):
    """Settings that are not the defaults."""

    batch: BatchConfig
    catalogue: CatalogueConfig
    observe: ObserveConfig
    security: SecurityConfig


@asynccontextmanager
async def running(
    shop: Shop,
    *,
    load: bool = True,
    admin_port: int | None = None,
    **sections: Unpack[Sections],
) -> AsyncIterator[Server]:
    """Keep a server of `shop` running, with its bundle unless `load` is false."""
    config = ServeConfig(
        server=ServerConfig(
            repository=shop.root,
            port=0,
            admin_port=admin_port,
            threads=1,
            lame_duck_s=0.0,
            grace_s=5.0,
        ),
        **sections,
    )
    compute = ComputeThread(asyncio.get_running_loop())
    server = Server(config, compute)
    await server.listen()
    compute.start()
    try:
        if load:
            await server.load(shop.folder)
        yield server
    finally:
        await server.stop()
        compute.close()
        compute.join(PATIENCE_S)


def plain(server: Server) -> grpc.aio.Channel:
    """Return a channel without TLS."""
    return grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")


def asking(*item_ids: str, k: int = 3) -> pb.RecommendRequest:
    """Return a request."""
    return pb.RecommendRequest(history=item_ids, k=k)


async def call(
    channel: grpc.aio.Channel,
    request: Message | bytes,
    metadata: Mapping[str, str] | None = None,
    method: str = RECOMMEND,
) -> bytes:
    """Make a call with one request; `grpc.aio.AioRpcError` if it fails."""
    sent = request if isinstance(request, bytes) else request.SerializeToString()
    pairs = tuple((metadata or {}).items())
    ask: Any = channel.unary_unary(f"/{method}")  # bytes to bytes
    return bytes(await ask(sent, metadata=pairs, timeout=PATIENCE_S))


async def refused(
    channel: grpc.aio.Channel,
    request: Message | bytes,
    metadata: Mapping[str, str] | None = None,
    method: str = RECOMMEND,
) -> grpc.aio.AioRpcError:
    """Make a call that must fail; return how."""
    try:
        await call(channel, request, metadata, method)
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"{method} was answered")
