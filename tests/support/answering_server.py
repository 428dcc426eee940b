"""A real gRPC server with a made-up answer, that can be told to stall or to fail."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import grpc

from mmsr.v1 import recommender_pb2

MODEL_VERSION = "0123456789abcdef"
DEADLINE_S = 20.0  # no test waits longer for anything


@dataclass
class Behaviour:
    """What the server does; requests are counted from 1."""

    stall_at: int = 0  # this request closes the gate for `stall_s`
    stall_s: float = 0.0
    stall_every_s: float = 0.0  # each so long, from the first request on, ends in such a stall
    fail_every: int = 0  # every so many requests end in RESOURCE_EXHAUSTED
    never_answer: bool = False
    version_of: Callable[[], str] = lambda: MODEL_VERSION
    requests: list[bytes] = field(default_factory=list)
    answered: threading.Event = field(default_factory=threading.Event)  # a second request came


class Recommender:
    """Has the one method that is asked. Answers at once, unless its behaviour says otherwise."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.gate = asyncio.Event()
        self.gate.set()

    def stall_in(self, seconds: float) -> None:
        """Close the gate after so long, open it `stall_s` later, and so on."""
        loop, behaviour = asyncio.get_running_loop(), self.behaviour
        loop.call_later(seconds, self.gate.clear)
        loop.call_later(seconds + behaviour.stall_s, self.gate.set)
        loop.call_later(seconds + behaviour.stall_s, self.stall_in, seconds)

    async def recommend(
        self, request: recommender_pb2.RecommendRequest, context: grpc.ServicerContext
    ) -> recommender_pb2.RecommendResponse:
        behaviour = self.behaviour
        behaviour.requests.append(request.SerializeToString())
        count = len(behaviour.requests)
        if count > 1:
            behaviour.answered.set()
        if count == behaviour.stall_at:
            self.gate.clear()
            asyncio.get_running_loop().call_later(behaviour.stall_s, self.gate.set)
        if count == 1 and behaviour.stall_every_s:
            self.stall_in(behaviour.stall_every_s - behaviour.stall_s)
        await self.gate.wait()
        if behaviour.never_answer:
            await asyncio.Event().wait()
        if behaviour.fail_every and count % behaviour.fail_every == 0:
            context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
            context.set_details("the queue is full")
            return recommender_pb2.RecommendResponse()
        return recommender_pb2.RecommendResponse(
            item_ids=["item-1"],
            scores=[1.0],
            model_version=behaviour.version_of(),
            queue_us=100,
            compute_us=200,
            batch_size=2,
        )


@asynccontextmanager
async def serve(behaviour: Behaviour) -> AsyncIterator[str]:
    """Serve in the running loop; give HOST:PORT."""
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        Recommender(behaviour).recommend,
        request_deserializer=recommender_pb2.RecommendRequest.FromString,
        response_serializer=recommender_pb2.RecommendResponse.SerializeToString,
    )
    server.add_registered_method_handlers("mmsr.v1.Recommender", {"Recommend": handler})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@contextmanager
def serve_in_thread(behaviour: Behaviour) -> Iterator[str]:
    """Serve in a thread of its own, for tests that start a generator process."""
    started, found = threading.Event(), []
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def main() -> None:
        async with serve(behaviour) as address:
            found.append(address)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    assert started.wait(DEADLINE_S)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
        loop.close()
