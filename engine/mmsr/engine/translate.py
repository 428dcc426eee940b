"""Messages of `mmsr.v1.Recommender` to plain values and back. Decides nothing."""

from mmsr.engine.errors import EngineError, Overloaded
from mmsr.engine.query import (
    ExplainQuery,
    ExplainReply,
    Query,
    Reply,
    ScoreQuery,
    ScoreReply,
    SimilarQuery,
    SimilarReply,
)
from mmsr.v1 import recommender_pb2 as pb


def query_of(request: pb.RecommendRequest) -> Query:
    """Translate a request."""
    # By position: a query is made for every request, and names cost a third more.
    return Query(
        request.history,
        request.k,
        request.excluded_ids,
        request.exclude_seen if request.HasField("exclude_seen") else None,
        request.allowed.item_ids if request.HasField("allowed") else None,
        request.include_categories,
        request.exclude_categories,
        request.only_available if request.HasField("only_available") else True,
        request.user_key,
    )


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
        catalogue_version=reply.catalogue_version,
    )


def result_of(reply: Reply, version: str) -> pb.RecommendResult:
    """Translate a reply to one request of several."""
    return pb.RecommendResult(response=response_of(reply, version))


def error_of(error: EngineError) -> pb.RecommendResult:
    """Translate why one request of several has no answer."""
    retry_ms = error.retry_after_ms if isinstance(error, Overloaded) else 0
    return pb.RecommendResult(
        error=pb.RequestError(code=error.code, message=str(error), retry_after_ms=retry_ms)
    )


def score_query_of(request: pb.ScoreRequest) -> ScoreQuery:
    """Translate a request."""
    return ScoreQuery(request.history, request.candidate_ids, request.user_key)


def score_response_of(reply: ScoreReply, version: str) -> pb.ScoreResponse:
    """Translate a reply."""
    return pb.ScoreResponse(
        item_ids=reply.item_ids,
        scores=reply.scores,
        unknown_candidate_ids=reply.unknown_candidate_ids,
        model_version=version,
        unknown_ids=reply.unknown_ids,
        queue_us=reply.queue_us,
        compute_us=reply.compute_us,
        batch_size=reply.batch_size,
        catalogue_version=reply.catalogue_version,
    )


def similar_query_of(request: pb.SimilarRequest) -> SimilarQuery:
    """Translate a request; a kind of comparison that is not known here is compared by output."""
    return SimilarQuery(
        request.item_id,
        request.k,
        request.by == pb.SIMILAR_BY_CONTENT,
        request.excluded_ids,
        request.allowed.item_ids if request.HasField("allowed") else None,
        request.include_categories,
        request.exclude_categories,
        request.only_available if request.HasField("only_available") else True,
    )


def similar_response_of(reply: SimilarReply, version: str) -> pb.SimilarResponse:
    """Translate a reply."""
    return pb.SimilarResponse(
        item_ids=reply.item_ids,
        similarities=reply.similarities,
        model_version=version,
        catalogue_version=reply.catalogue_version,
        compute_us=reply.compute_us,
    )


def explain_query_of(request: pb.ExplainRequest) -> ExplainQuery:
    """Translate a request."""
    return ExplainQuery(request.history, request.item_ids, request.k, request.user_key)


def explain_response_of(reply: ExplainReply, version: str) -> pb.ExplainResponse:
    """Translate a reply."""
    items = [
        pb.ItemExplanation(
            item_id=item.item_id,
            score=item.score,
            history_changes=item.history_changes,
            source_changes=[
                pb.SourceChange(source=source, change=change)
                for source, change in item.source_changes
            ],
        )
        for item in reply.items
    ]
    return pb.ExplainResponse(
        items=items,
        history=reply.history,
        attention=reply.attention,
        unknown_item_ids=reply.unknown_item_ids,
        model_version=version,
        catalogue_version=reply.catalogue_version,
        compute_us=reply.compute_us,
    )
