"""The blocking client of `mmsr.v1.Recommender`."""

import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Unpack

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mmsr.engine.client_calls import Calls, Feed
from mmsr.engine.client_connection import typed
from mmsr.engine.client_messages import (
    encoding,
    explanations,
    ids,
    neighbours,
    recommend_request,
    recommendations,
    results,
    scores,
    similar_request,
    stream_answer,
    stream_request,
)
from mmsr.engine.client_values import (
    Explanations,
    FilterOptions,
    Neighbours,
    Options,
    Recommendations,
    Request,
    Scores,
    StreamAnswer,
    StreamRequest,
)
from mmsr.engine.errors import EngineError, Unavailable
from mmsr.engine.wire import SERVICE_NAME
from mmsr.v1 import recommender_pb2 as pb
from mmsr.v1 import recommender_pb2_grpc as pb_grpc


class RecommenderClient(Calls):
    """Blocking client; one instance may be shared by threads.

    Every method raises an `EngineError`. Without `deadline_ms` the client's `timeout_s` holds.
    """

    @cached_property
    def _stub(self) -> pb_grpc.RecommenderStub:
        return pb_grpc.RecommenderStub(self._channel)

    def recommend(
        self,
        history: Iterable[str],
        k: int,
        *,
        deadline_ms: float | None = None,
        **options: Unpack[Options],
    ) -> Recommendations:
        """Return the best k items after `history` (oldest first)."""
        request = recommend_request(Request(history=history, k=k, **options))
        return self._call(self._stub.Recommend, request, recommendations, deadline_ms)

    def recommend_batch(
        self, requests: Iterable[Request], *, deadline_ms: float | None = None
    ) -> list[Recommendations | EngineError]:
        """Return for each of up to 1,024 requests its answer, or why it has none."""
        message = pb.RecommendBatchRequest(requests=map(recommend_request, requests))
        return self._call(self._stub.RecommendBatch, message, results, deadline_ms)

    def recommend_stream(
        self, requests: Iterable[StreamRequest], *, deadline_ms: float | None = None
    ) -> Iterator[StreamAnswer]:
        """Yield answers as they are ready, those of equal keys in the order of their requests.

        `requests` is read in another thread. Nothing is sent again; without `deadline_ms` the
        stream lasts as long as the requests.
        """
        feed = Feed(requests, stream_request)
        return self._stream(self._stub.RecommendStream, feed, stream_answer, deadline_ms)

    def score(
        self,
        history: Iterable[str],
        candidate_ids: Iterable[str],
        *,
        label: str = "",
        user_key: str = "",
        deadline_ms: float | None = None,
    ) -> Scores:
        """Rank candidates after `history`, whether they are available or not."""
        with encoding("ids in UTF-8"):
            request = pb.ScoreRequest(
                history=ids("history", history),
                candidate_ids=ids("candidate_ids", candidate_ids),
                label=label,
                user_key=user_key,
            )
        return self._call(self._stub.Score, request, scores, deadline_ms)

    def similar(
        self,
        item_id: str,
        k: int,
        *,
        by_content: bool = False,
        deadline_ms: float | None = None,
        **filters: Unpack[FilterOptions],
    ) -> Neighbours:
        """Return the k items nearest to an item, by output vectors or by content alone."""
        request = similar_request(item_id, by_content, Request(history=(), k=k, **filters))
        return self._call(self._stub.Similar, request, neighbours, deadline_ms)

    def explain(
        self,
        history: Iterable[str],
        item_ids: Iterable[str] = (),
        *,
        k: int = 0,
        label: str = "",
        user_key: str = "",
        deadline_ms: float | None = None,
    ) -> Explanations:
        """Say what the scores of items hang on; of the k best (0: 10) where none is named."""
        with encoding("a k from 0 to 100 and ids in UTF-8"):
            request = pb.ExplainRequest(
                history=ids("history", history),
                item_ids=ids("item_ids", item_ids),
                k=k,
                label=label,
                user_key=user_key,
            )
        return self._call(self._stub.Explain, request, explanations, deadline_ms)

    def wait_until_serving(self, deadline_s: float = 60.0) -> None:
        """Return once the server's health is SERVING; `Unavailable` after `deadline_s`."""
        ends = time.monotonic() + deadline_s
        stub = health_pb2_grpc.HealthStub(self._channel)
        request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        while (left_s := ends - time.monotonic()) > 0:
            watch = stub.Watch(request, timeout=left_s, wait_for_ready=True)
            try:
                for response in watch:
                    if is_serving(response):
                        watch.cancel()
                        return
            except grpc.RpcError as error:
                raise_unless_transient(error)
        raise not_serving(self._target, deadline_s)


def is_serving(response: Any) -> bool:
    """Tell whether a health response says SERVING."""
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


def raise_unless_transient(error: Any) -> None:
    """Raise what waiting would not change."""
    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        raise typed(error) from None


def not_serving(target: str, deadline_s: float) -> Unavailable:
    """Return the error of a server that has not come up."""
    return Unavailable(f"{target} is not serving after {deadline_s:g} s; look at the server's log")
