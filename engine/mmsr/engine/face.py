"""`mmsr.v1.Recommender` over gRPC: translates messages, decides nothing."""

import time
from collections.abc import AsyncIterator, Callable
from functools import partial

import grpc

from mmsr.engine.bulk import Bulk, Queued
from mmsr.engine.checks import check_batch, check_key
from mmsr.engine.config import Limits
from mmsr.engine.errors import EngineError
from mmsr.engine.query import Reply
from mmsr.engine.rpc import Call, Rpc, register
from mmsr.engine.serving import Serving
from mmsr.engine.stream import KeyedStream
from mmsr.engine.translate import (
    error_of,
    explain_query_of,
    explain_response_of,
    query_of,
    response_of,
    result_of,
    score_query_of,
    score_response_of,
    similar_query_of,
    similar_response_of,
)
from mmsr.engine.wire import SERVICE_NAME
from mmsr.v1 import recommender_pb2 as pb

# Of a batch call's time, what is kept to put the answer together, by request: measured 25 us with
# k = 10. What is not computed by then is told so, rather than all of it coming too late.
REPLY_S = 50e-6


class RecommenderFace:
    """The methods of the recommender service. `clock` is the one of the calls' deadlines."""

    name = SERVICE_NAME

    def __init__(
        self,
        serving: Serving,
        limits: Limits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._serving = serving
        self._limits = limits or Limits()
        self._clock = clock

    def add_to(self, server: grpc.aio.Server, rpc: Rpc) -> None:
        """Register with a server that has not started."""
        name = self.name
        handlers = {
            "Recommend": rpc.unary(f"{name}/Recommend", pb.RecommendRequest, self.recommend),
            "RecommendBatch": rpc.unary(
                f"{name}/RecommendBatch", pb.RecommendBatchRequest, self.recommend_batch
            ),
            "RecommendStream": rpc.stream(
                f"{name}/RecommendStream", pb.RecommendStreamRequest, self.recommend_stream
            ),
            "Score": rpc.unary(f"{name}/Score", pb.ScoreRequest, self.score),
            "Similar": rpc.unary(f"{name}/Similar", pb.SimilarRequest, self.similar),
            "Explain": rpc.unary(f"{name}/Explain", pb.ExplainRequest, self.explain),
        }
        register(server, name, handlers)

    async def recommend(self, request: pb.RecommendRequest, call: Call) -> pb.RecommendResponse:
        """Answer one request."""
        service = self._serving.deployment(request.label, request.user_key).service
        reply = await service.recommend(query_of(request), call.deadline)
        return response_of(reply, service.facts.version)

    async def recommend_batch(
        self, request: pb.RecommendBatchRequest, call: Call
    ) -> pb.RecommendBatchResponse:
        """Answer many requests, each by itself."""
        check_batch(request.requests, self._limits)
        deadline = call.deadline
        if deadline is not None:
            deadline -= REPLY_S * len(request.requests)
        bulk = Bulk(partial(self._begin, deadline), answered, error_of)
        return pb.RecommendBatchResponse(results=await bulk.answer(request.requests))

    def recommend_stream(
        self, requests: AsyncIterator[pb.RecommendStreamRequest], call: Call
    ) -> AsyncIterator[pb.RecommendStreamResponse]:
        """Answer what comes, as it is ready."""

        async def answer(
            arrived: tuple[pb.RecommendStreamRequest, float],
        ) -> pb.RecommendStreamResponse:
            return await self._answer_one(*arrived, call.deadline)

        stream = KeyedStream(answer, key_of)
        return stream.answers(self._timed(requests), self._serving.refused)

    async def score(self, request: pb.ScoreRequest, call: Call) -> pb.ScoreResponse:
        """Rank given candidates."""
        service = self._serving.deployment(request.label, request.user_key).service
        reply = await service.score(score_query_of(request), call.deadline)
        return score_response_of(reply, service.facts.version)

    async def similar(self, request: pb.SimilarRequest, call: Call) -> pb.SimilarResponse:
        """Return the nearest items."""
        deployment = self._serving.deployment(request.label)
        reply = await deployment.similar.nearest(similar_query_of(request), call.deadline)
        return similar_response_of(reply, deployment.service.facts.version)

    async def explain(self, request: pb.ExplainRequest, call: Call) -> pb.ExplainResponse:
        """Say what scores hang on."""
        deployment = self._serving.deployment(request.label, request.user_key)
        reply = await deployment.explaining.explain(explain_query_of(request), call.deadline)
        return explain_response_of(reply, deployment.service.facts.version)

    def _begin(self, deadline: float | None, request: pb.RecommendRequest) -> Queued:
        service = self._serving.deployment(request.label, request.user_key).service
        return Queued(service, service.begin(query_of(request), deadline, bulk=True))

    async def _timed(
        self, requests: AsyncIterator[pb.RecommendStreamRequest]
    ) -> AsyncIterator[tuple[pb.RecommendStreamRequest, float]]:
        async for request in requests:
            yield request, self._clock()

    async def _answer_one(
        self, asked: pb.RecommendStreamRequest, arrived: float, deadline: float | None
    ) -> pb.RecommendStreamResponse:
        if asked.deadline_ms:
            own = arrived + asked.deadline_ms / 1e3
            deadline = own if deadline is None else min(own, deadline)
        try:
            check_key("key", asked.key, self._limits)
            request = asked.request
            service = self._serving.deployment(request.label, request.user_key).service
            reply = await service.recommend(query_of(request), deadline)
            result = result_of(reply, service.facts.version)
        except EngineError as error:
            result = error_of(error)
        return pb.RecommendStreamResponse(key=asked.key, result=result)


def key_of(arrived: tuple[pb.RecommendStreamRequest, float]) -> str:
    """Return the key of a message."""
    return arrived[0].key


def answered(queued: Queued, reply: Reply) -> pb.RecommendResult:
    """Translate a reply to one request of several."""
    return result_of(reply, queued.service.facts.version)
