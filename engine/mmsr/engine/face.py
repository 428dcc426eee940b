"""`mmsr.v1.Recommender` over gRPC: translates messages and errors, decides nothing."""

import logging
from collections.abc import Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from mmsr.engine.errors import EngineError, InvalidRequest, Overloaded, RunnerFailed, Unavailable
from mmsr.engine.service import Query, Reply, Service
from mmsr.engine.wire import METHOD, RETRY_AFTER, SERVICE_NAME
from mmsr.v1 import recommender_pb2 as pb

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class RecommenderFace:
    """Answers with the present service, or with the reason why there is none."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._service: Service | None = None
        self._refusal = Unavailable("the server is starting; try again in a moment")
        self.last_call = clock()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server that has not started.

        Not by the generated function: its deserializer would answer a malformed message with
        UNKNOWN and write a traceback to the log.
        """
        handler: grpc.RpcMethodHandler[bytes, Any] = grpc.unary_unary_rpc_method_handler(
            self.recommend, response_serializer=pb.RecommendResponse.SerializeToString
        )
        handlers = {METHOD: handler}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),)
        )
        server.add_registered_method_handlers(SERVICE_NAME, handlers)

    def use(self, service: Service) -> None:
        """Answer new requests with `service`; those under way stay with theirs."""
        self._service = service

    def refuse(self, reason: Unavailable) -> None:
        """Answer new requests with `reason`."""
        self._service = None
        self._refusal = reason

    async def recommend(self, message: bytes, context: Context) -> pb.RecommendResponse:
        """Answer an encoded `RecommendRequest`; see recommender.proto."""
        now = self.last_call = self._clock()
        try:
            service = self._service
            if service is None:
                raise self._refusal
            left_s = context.time_remaining()
            # None without a deadline, whatever the annotation says.
            deadline = None if left_s is None else now + left_s
            reply = await service.recommend(query_of(parse(message)), deadline)
            return response_of(reply, service.facts.version)
        except EngineError as error:
            await abort(context, error)
        except Exception:  # outermost: a bug must not take the server down
            log.exception("Recommend failed")
            await abort(context, RunnerFailed("internal error"))


def parse(message: bytes) -> pb.RecommendRequest:
    """Decode a request; `InvalidRequest` if it is none."""
    try:
        return pb.RecommendRequest.FromString(message)
    except DecodeError as error:
        raise InvalidRequest(
            f"{len(message)} bytes that are no mmsr.v1.RecommendRequest ({error}); expected one, "
            "with ids in UTF-8"
        ) from None


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
        unknown_item_ids=reply.unknown_item_ids,
    )


async def abort(context: Context, error: EngineError) -> NoReturn:
    """End the call with the error's status."""
    retry: tuple[tuple[str, str], ...] = ()
    if isinstance(error, Overloaded):
        retry = ((RETRY_AFTER, str(error.retry_after_ms)),)
    await context.abort(grpc.StatusCode[error.code], str(error), retry)
    raise AssertionError("abort returned")
