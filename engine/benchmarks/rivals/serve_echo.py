"""The ceiling: a bare gRPC server that parses the request and serialises an answer of K items."""

import asyncio
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from benchmarks.rivals.shared_model import read_order
from mmsr.engine.wire import SERVICE_NAME
from mmsr.v1 import recommender_pb2 as pb

THREADS = 8
ITEM_IDS = [f"i{n}" for n in range(1000)]
SCORES = [1.0 - n / 1000 for n in range(1000)]


def answer_to(request: pb.RecommendRequest) -> pb.RecommendResponse:
    """Return fixed items, as many as were asked for."""
    k = min(request.k, len(ITEM_IDS))
    return pb.RecommendResponse(
        item_ids=ITEM_IDS[:k], scores=SCORES[:k], model_version="0123456789abcdef", batch_size=1
    )


async def answer_async(request: pb.RecommendRequest, context: Any) -> pb.RecommendResponse:
    """Answer at once, for grpc.aio."""
    return answer_to(request)


def answer_threaded(request: pb.RecommendRequest, context: Any) -> pb.RecommendResponse:
    """Answer at once, for grpc's own threads."""
    return answer_to(request)


def register(server: Any, answer: Callable[..., Any]) -> None:
    """Add the method as the generated code does."""
    handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=pb.RecommendRequest.FromString,
        response_serializer=pb.RecommendResponse.SerializeToString,
    )
    handlers = {"Recommend": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))
    server.add_registered_method_handlers(SERVICE_NAME, handlers)


async def serve_async(port: int) -> None:
    """Serve until SIGTERM."""
    server = grpc.aio.server()
    register(server, answer_async)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    await server.stop(0)


def serve_threaded(port: int) -> None:
    """Serve until SIGTERM."""
    server = grpc.server(ThreadPoolExecutor(THREADS))
    register(server, answer_threaded)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    signal.sigwait({signal.SIGTERM})
    server.stop(0)


def main() -> None:
    """Serve in the way that the command line names: aio, uvloop (the default) or threaded."""
    way, port = (sys.argv[1:] or ["uvloop"])[0], read_order().port
    if way == "threaded":
        serve_threaded(port)
    elif way == "aio":
        asyncio.run(serve_async(port))
    else:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve_async(port))


if __name__ == "__main__":
    main()
