"""`mmsr.v1.Recommender` over gRPC: translates messages and errors, decides nothing."""

import logging
from collections.abc import Callable
from typing import Any, NoReturn

import grpc

from mmsr.engine.errors import EngineError, Overloaded, RunnerFailed, Unavailable
from mmsr.engine.service import Query, Reply, Service
from mmsr.engine.wire import RETRY_AFTER
from mmsr.v1 import recommender_pb2 as pb
from mmsr.v1 import recommender_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class RecommenderFace(pb_grpc.RecommenderServicer):
    """Answers with the present service, or with the reason why there is none."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._service: Service | None = None
        self._refusal = Unavailable("the server is starting; try again in a moment")
        self.last_refusal = clock()  # for want of a service

    def use(self, service: Service) -> None:
        """Answer new requests with `service`; those under way stay with theirs."""
        self._service = service

    def refuse(self, reason: Unavailable) -> None:
        """Answer new requests with `reason`."""
        self._service = None
        self.last_refusal = self._clock()
        self._refusal = reason

    async def Recommend(  # noqa: N802
        self, request: pb.RecommendRequest, context: Context
    ) -> pb.RecommendResponse:
        """See recommender.proto."""
        try:
            service = self._service
            if service is None:
                self.last_refusal = self._clock()
                raise self._refusal
            left_s = context.time_remaining()
            # None without a deadline, whatever the annotation says.
            deadline = None if left_s is None else self._clock() + left_s
            reply = await service.recommend(query_of(request), deadline)
            return response_of(reply, service.facts.version)
        except EngineError as error:
            await abort(context, error)
        except Exception:  # outermost: a bug must not take the server down
            log.exception("Recommend failed")
            await abort(context, RunnerFailed("internal error"))


def query_of(request: pb.RecommendRequest) -> Query:
    """Translate a request."""
    exclude_seen = request.exclude_seen if request.HasField("exclude_seen") else None
    return Query(request.history, request.k, request.excluded_ids, exclude_seen)


def response_of(reply: Reply, version: str) -> pb.RecommendResponse:
    """Translate a reply."""
    return pb.RecommendResponse(
        item_ids=reply.item_ids,
        scores=reply.scores,
        model_version=version,
        unknown_ids=reply.unknown_ids,
        fallback=pb.FALLBACK_POPULARITY if reply.popular else pb.FALLBACK_UNSPECIFIED,
        queue_us=reply.queue_us,
        compute_us=reply.compute_us,
        batch_size=reply.batch_size,
    )


async def abort(context: Context, error: EngineError) -> NoReturn:
    """End the call with the error's status."""
    retry: tuple[tuple[str, str], ...] = ()
    if isinstance(error, Overloaded):
        retry = ((RETRY_AFTER, str(error.retry_after_ms)),)
    await context.abort(grpc.StatusCode[error.code], str(error), retry)
    raise AssertionError("abort returned")
