"""A server of nothing but gRPC and protobuf: `python -m mmsr.engine.bench.echo KIND K PARENT`.

The ceiling of any recommender behind Python's gRPC: it parses the request and serialises an answer
of K items, as mmsr-serve does, and computes nothing. Prints its port on 127.0.0.1; ends with the
PARENT process or on SIGTERM.
"""

import asyncio
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from mmsr.engine.bench.interrupt import end_with
from mmsr.engine.wire import METHOD, SERVICE_NAME
from mmsr.v1 import recommender_pb2 as pb

AIO, UVLOOP, THREADED = "asyncio", "uvloop", "threads"
KINDS = (AIO, UVLOOP, THREADED)
THREADS = 8  # of the threaded server; more gained nothing on 2 cores
ADDRESS = "127.0.0.1:0"


def answer_of(k: int) -> pb.RecommendResponse:
    """Return an answer as large as a real one."""
    return pb.RecommendResponse(
        item_ids=[f"item-{place:05d}" for place in range(k)],
        scores=[1.0 / (1 + place) for place in range(k)],
        model_version="echo",
        batch_size=1,
    )


def handlers(call: Any) -> Any:
    """Return what a gRPC server needs to answer by `call`."""
    method: Any = grpc.unary_unary_rpc_method_handler(
        call,
        request_deserializer=pb.RecommendRequest.FromString,
        response_serializer=pb.RecommendResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(SERVICE_NAME, {METHOD: method})


async def serve_async(k: int) -> None:
    """Serve in the running loop until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    answer = answer_of(k)

    async def recommend(request: pb.RecommendRequest, context: Any) -> pb.RecommendResponse:
        del request, context
        return answer

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers(recommend),))
    port = server.add_insecure_port(ADDRESS)
    await server.start()
    _announce(port)
    await stop.wait()
    await server.stop(0)


def serve_threaded(k: int) -> None:
    """Serve by a pool of threads until SIGTERM."""
    answer = answer_of(k)

    def recommend(request: pb.RecommendRequest, context: Any) -> pb.RecommendResponse:
        del request, context
        return answer

    server = grpc.server(ThreadPoolExecutor(THREADS))
    server.add_generic_rpc_handlers((handlers(recommend),))
    port = server.add_insecure_port(ADDRESS)
    server.start()
    signal.signal(signal.SIGTERM, lambda number, frame: server.stop(0))
    _announce(port)
    server.wait_for_termination()


def _announce(port: int) -> None:
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


def main() -> None:
    """Serve as told on the command line; exit code 5 where uvloop is not installed."""
    kind, k = sys.argv[1], int(sys.argv[2])
    end_with(int(sys.argv[3]))
    if kind == THREADED:
        serve_threaded(k)
        return
    factory: Any = asyncio.new_event_loop
    if kind == UVLOOP:
        try:
            import uvloop
        except ModuleNotFoundError:
            sys.exit(5)
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve_async(k))


if __name__ == "__main__":
    main()
