"""The frame of every call, over a real socket: who is let in, what is counted, what is told."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from support.in_process import PATIENCE_S, asking, call, refused

from mmsr.engine.errors import Overloaded, RateExceeded
from mmsr.engine.gatekeeper import TokenGate
from mmsr.engine.limits import ClientLimits, Rate
from mmsr.engine.rpc import MOST_ROWS, Call, Outcome, Rpc, counter_of, register
from mmsr.engine.tokens import TokenFile, entry_of, new_token
from mmsr.oip import inference_pb2 as oip
from mmsr.v1 import recommender_pb2 as pb

SERVICE = "mmsr.v1.Recommender"
METHODS = ("Recommend", "RecommendBatch", "RecommendStream")
Main = Callable[[grpc.aio.Channel], Coroutine[Any, Any, None]]


class Notebook:
    """A meter that writes down what it is told."""

    reads_metadata = False

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.streamed_after: list[Message | None] = []
        self.ends: asyncio.Queue[tuple[Call, Outcome]] = asyncio.Queue()

    def began(self, method: str) -> None:
        self.begun.append(method)

    def streamed(self, call: Call, request: Message | None, response: Message) -> None:
        self.streamed_after.append(request)

    def ended(self, call: Call, outcome: Outcome) -> None:
        self.ends.put_nowait((call, outcome))


class Shop:
    """A service that does what the first id of the history says."""

    def __init__(self) -> None:
        self.held = asyncio.Event()

    async def recommend(self, request: pb.RecommendRequest, call: Call) -> pb.RecommendResponse:
        match request.history[0]:
            case "bug":
                raise KeyError("private")
            case "full":
                raise Overloaded("the queue is full", 7)
            case "wait":
                self.held.set()
                await asyncio.Event().wait()
        return pb.RecommendResponse(item_ids=[call.client or "nobody"])

    async def batch(
        self, request: pb.RecommendBatchRequest, call: Call
    ) -> pb.RecommendBatchResponse:
        return pb.RecommendBatchResponse()

    async def stream(
        self, requests: AsyncIterator[pb.RecommendStreamRequest], call: Call
    ) -> AsyncIterator[pb.RecommendStreamResponse]:
        async for request in requests:
            await self.recommend(request.request, call)
            yield pb.RecommendStreamResponse(key=request.key)


@asynccontextmanager
async def served(rpc: Rpc, shop: Shop) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    names = [f"{SERVICE}/{method}" for method in METHODS]
    handlers = {
        METHODS[0]: rpc.unary(names[0], pb.RecommendRequest, shop.recommend),
        METHODS[1]: rpc.unary(names[1], pb.RecommendBatchRequest, shop.batch),
        METHODS[2]: rpc.stream(names[2], pb.RecommendStreamRequest, shop.stream),
    }
    register(server, SERVICE, handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def clock() -> float:
    return asyncio.get_running_loop().time()


def streaming(*item_ids: str) -> AsyncIterator[bytes]:
    async def messages() -> AsyncIterator[bytes]:
        for item_id in item_ids:
            request = pb.RecommendStreamRequest(key=item_id, request=asking(item_id))
            yield request.SerializeToString()

    return messages()


def keys_of(answers: list[bytes]) -> list[str]:
    return [pb.RecommendStreamResponse.FromString(answer).key for answer in answers]


async def stream(
    channel: grpc.aio.Channel, *item_ids: str, metadata: tuple[tuple[str, str], ...] = ()
) -> list[str]:
    method: Any = channel.stream_stream(f"/{SERVICE}/RecommendStream")
    return keys_of([answer async for answer in method(streaming(*item_ids), metadata=metadata)])


def test_each_call_is_counted_once_however_it_ends() -> None:
    async def main() -> None:
        notebook, shop = Notebook(), Shop()
        async with served(Rpc(clock, meter=notebook), shop) as channel:
            await call(channel, asking("item-1"))
            await refused(channel, asking("full"))
            await refused(channel, asking("bug"))
            await refused(channel, b"\xff")
            waiting = asyncio.create_task(call(channel, asking("wait")))
            await shop.held.wait()
            waiting.cancel()
            ends = [await notebook.ends.get() for _ in range(5)]
        outcomes = [outcome for _, outcome in ends]
        assert [outcome.code for outcome in outcomes] == [
            *("OK", "RESOURCE_EXHAUSTED", "INTERNAL", "INVALID_ARGUMENT", "CANCELLED")
        ]
        assert len(notebook.begun) == 5
        assert outcomes[0].request == asking("item-1")
        assert isinstance(outcomes[0].response, pb.RecommendResponse)
        assert outcomes[3].request is None
        assert notebook.ends.empty()

    run(main)


def test_a_bug_is_logged_with_its_place_and_the_caller_is_told_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with served(Rpc(clock), Shop()) as channel:
            error = await refused(channel, asking("bug"), {"x-request-id": "r-9"})
            assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")

    run(main)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    fields = record.__dict__["fields"]
    assert fields == {"method": f"{SERVICE}/Recommend", "request_id": "r-9", "code": "INTERNAL"}


def test_an_error_carries_the_callers_own_id_back() -> None:
    async def main() -> None:
        async with served(Rpc(clock), Shop()) as channel:
            error = await refused(channel, asking("full"), {"x-request-id": "r-9"})
            assert dict(iter(error.trailing_metadata())) == {
                "retry-after-ms": "7",
                "x-request-id": "r-9",
            }
            error = await refused(channel, asking("full"), {"x-request-id": "x" * 200})
            assert "x-request-id" not in dict(iter(error.trailing_metadata()))

    run(main)


def test_each_answer_on_a_stream_is_told_with_the_request_before_it() -> None:
    async def main() -> None:
        notebook = Notebook()
        async with served(Rpc(clock, meter=notebook), Shop()) as channel:
            assert await stream(channel, "a", "b") == ["a", "b"]
            _, outcome = await notebook.ends.get()
        keys = [getattr(request, "key", None) for request in notebook.streamed_after]
        assert keys == ["a", "b"]
        assert (outcome.code, outcome.response) == ("OK", None)

    run(main)


def test_a_stream_that_its_caller_leaves_is_counted_as_cancelled() -> None:
    async def main() -> None:
        notebook, shop = Notebook(), Shop()
        async with served(Rpc(clock, meter=notebook), shop) as channel:
            waiting = asyncio.create_task(stream(channel, "wait"))
            await shop.held.wait()
            waiting.cancel()
            _, outcome = await notebook.ends.get()
        assert outcome.code == "CANCELLED"

    run(main)


def gate_of(folder: Path, token: str, rate: Rate | None = None) -> TokenGate:
    path = folder / "tokens.toml"
    path.write_text(entry_of("shop", ["recommend"], token))
    file = TokenFile(path, clock)
    file.load()
    return TokenGate(file, ClientLimits(rate), clock)


def test_a_method_learns_who_calls(tmp_path: Path) -> None:
    async def main() -> None:
        token = new_token()
        async with served(Rpc(clock, gate_of(tmp_path, token)), Shop()) as channel:
            answer = await call(channel, asking("a"), {"authorization": f"Bearer {token}"})
            assert pb.RecommendResponse.FromString(answer).item_ids == ["shop"]
            error = await refused(channel, asking("a"))
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED

    run(main)


def test_a_stream_without_a_token_is_refused_before_its_first_message(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(Rpc(clock, gate_of(tmp_path, new_token())), Shop()) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await stream(channel, "a")
            assert told.value.code() == grpc.StatusCode.UNAUTHENTICATED

    run(main)


class Reluctant:
    """A gatekeeper that lets a message in when it is asked for the second time."""

    def __init__(self) -> None:
        self.asked = 0

    def admit(self, method: str, metadata: Mapping[str, str | bytes]) -> str:
        self.asked += 1
        if self.asked % 2 == 0:
            raise RateExceeded("too often", 1)
        return "shop"

    def owe(self, client: str, requests: int) -> None:
        raise AssertionError("each message holds one request")


def test_a_stream_that_exceeds_its_rate_is_slowed_down_and_nothing_is_lost() -> None:
    async def main() -> None:
        gate = Reluctant()
        async with served(Rpc(clock, gate), Shop()) as channel:
            ids = [f"item-{n}" for n in range(12)]
            assert await stream(channel, *ids) == ids
        assert gate.asked == 1 + 2 * 12  # the call, then each message twice

    run(main)


@pytest.mark.parametrize(
    ("shape", "requests"), [([3, 20], 3), ([], 1), ([0, 1], 1), ([-5], 1), ([2**62], MOST_ROWS)]
)
def test_a_tensor_counts_as_its_rows(shape: list[int], requests: int) -> None:
    inputs = [oip.ModelInferRequest.InferInputTensor(shape=shape)]
    assert counter_of(oip.ModelInferRequest)(oip.ModelInferRequest(inputs=inputs)) == requests
    assert counter_of(oip.ModelInferRequest)(oip.ModelInferRequest()) == 1


def test_a_batch_counts_as_its_requests(tmp_path: Path) -> None:
    async def main() -> None:
        token = new_token()
        metadata = {"authorization": f"Bearer {token}"}
        gate = gate_of(tmp_path, token, Rate(1.0, 10.0))
        async with served(Rpc(clock, gate), Shop()) as channel:
            batch = pb.RecommendBatchRequest(requests=[asking("a")] * 1000)
            await call(channel, batch, metadata, f"{SERVICE}/RecommendBatch")
            error = await refused(channel, asking("a"), metadata)
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            retry_ms = int(dict(iter(error.trailing_metadata()))["retry-after-ms"])
            assert 980_000 < retry_ms <= 991_000

    run(main)
