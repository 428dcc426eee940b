"""`mmsr.v1.Recommender` over gRPC: translates messages, decides nothing."""

import grpc

from mmsr.engine.rpc import Call, Rpc, register
from mmsr.engine.service import Query, Reply
from mmsr.engine.serving import Serving
from mmsr.engine.wire import SERVICE_NAME
from mmsr.v1 import recommender_pb2 as pb


class RecommenderFace:
    """The methods of the recommender service."""

    name = SERVICE_NAME

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def add_to(self, server: grpc.aio.Server, rpc: Rpc) -> None:
        """Register with a server that has not started."""
        method = f"{self.name}/Recommend"
        handlers = {"Recommend": rpc.unary(method, pb.RecommendRequest, self.recommend)}
        register(server, self.name, handlers)

    async def recommend(self, request: pb.RecommendRequest, call: Call) -> pb.RecommendResponse:
        """Answer one request."""
        service = self._serving.deployment(request.label).service
        reply = await service.recommend(query_of(request), call.deadline)
        return response_of(reply, service.facts.version)


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
