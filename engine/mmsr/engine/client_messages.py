"""A client's values to messages of `mmsr.v1.Recommender` and back."""

from collections.abc import Iterable

from mmsr.engine.client_values import (
    Explanations,
    ItemExplanation,
    Neighbours,
    Recommendations,
    Request,
    Scores,
    StreamAnswer,
    StreamRequest,
)
from mmsr.engine.errors import EngineError, InvalidRequest, from_status
from mmsr.v1 import recommender_pb2 as pb


def recommend_request(request: Request) -> pb.RecommendRequest:
    """Translate a request; `InvalidRequest` if it cannot be encoded."""
    allowed = request.allowed_ids
    with encoding("a k from 1 to 1000 and ids in UTF-8"):
        return pb.RecommendRequest(
            history=ids("history", request.history),
            k=request.k,
            excluded_ids=ids("excluded_ids", request.excluded_ids),
            exclude_seen=request.exclude_seen,
            allowed=None if allowed is None else pb.ItemIds(item_ids=ids("allowed_ids", allowed)),
            include_categories=ids("include_categories", request.include_categories),
            exclude_categories=ids("exclude_categories", request.exclude_categories),
            only_available=request.only_available,
            label=request.label,
            user_key=request.user_key,
        )


def stream_request(asked: StreamRequest) -> pb.RecommendStreamRequest:
    """Translate a request on a stream."""
    request = recommend_request(asked.request)
    with encoding("a key in UTF-8 and a deadline_ms of at least 0"):
        return pb.RecommendStreamRequest(
            key=asked.key, request=request, deadline_ms=asked.deadline_ms
        )


def similar_request(item_id: str, by_content: bool, filters: Request) -> pb.SimilarRequest:
    """Translate a request; of `filters` history, user and what was seen are not read."""
    allowed = filters.allowed_ids
    with encoding("a k from 1 to 1000 and ids in UTF-8"):
        return pb.SimilarRequest(
            item_id=item_id,
            k=filters.k,
            by=pb.SIMILAR_BY_CONTENT if by_content else pb.SIMILAR_BY_OUTPUT,
            excluded_ids=ids("excluded_ids", filters.excluded_ids),
            allowed=None if allowed is None else pb.ItemIds(item_ids=ids("allowed_ids", allowed)),
            include_categories=ids("include_categories", filters.include_categories),
            exclude_categories=ids("exclude_categories", filters.exclude_categories),
            only_available=filters.only_available,
            label=filters.label,
        )


def ids(name: str, values: Iterable[str]) -> Iterable[str]:
    """Refuse one text where several are expected: its letters would be taken for ids."""
    if isinstance(values, str):
        what = "category names" if name.endswith("categories") else "item ids"
        raise InvalidRequest(f"{name} is the text {values!r}; expected a list of {what}")
    return values


class encoding:  # noqa: N801 - used as a statement
    """`InvalidRequest` for what Protobuf refuses to encode."""

    def __init__(self, expected: str) -> None:
        self._expected = expected

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError | TypeError):  # no uint32, no UTF-8, no text
            raise InvalidRequest(
                f"the request cannot be encoded ({error}); expected {self._expected}"
            ) from None


def recommendations(response: pb.RecommendResponse) -> Recommendations:
    """Translate an answer."""
    popular = response.fallback == pb.FALLBACK_POPULARITY
    return Recommendations(
        items=tuple(zip(response.item_ids, response.scores, strict=True)),
        model_version=response.model_version,
        queue_us=response.queue_us,
        compute_us=response.compute_us,
        batch_size=response.batch_size,
        unknown_ids=response.unknown_ids,
        fallback="popularity" if popular else None,
        unknown_item_ids=tuple(response.unknown_item_ids),
        catalogue_version=response.catalogue_version,
    )


def result(answer: pb.RecommendResult) -> Recommendations | EngineError:
    """Translate the answer to one request of several, or why there is none."""
    if answer.HasField("error"):
        error = answer.error
        return from_status(error.code, error.message, error.retry_after_ms or None)
    return recommendations(answer.response)


def results(response: pb.RecommendBatchResponse) -> list[Recommendations | EngineError]:
    """Translate the answers of one call."""
    return list(map(result, response.results))


def stream_answer(response: pb.RecommendStreamResponse) -> StreamAnswer:
    """Translate an answer of a stream."""
    return StreamAnswer(key=response.key, result=result(response.result))


def scores(response: pb.ScoreResponse) -> Scores:
    """Translate an answer."""
    return Scores(
        items=tuple(zip(response.item_ids, response.scores, strict=True)),
        unknown_candidate_ids=tuple(response.unknown_candidate_ids),
        model_version=response.model_version,
        queue_us=response.queue_us,
        compute_us=response.compute_us,
        batch_size=response.batch_size,
        unknown_ids=response.unknown_ids,
        catalogue_version=response.catalogue_version,
    )


def neighbours(response: pb.SimilarResponse) -> Neighbours:
    """Translate an answer."""
    return Neighbours(
        items=tuple(zip(response.item_ids, response.similarities, strict=True)),
        model_version=response.model_version,
        compute_us=response.compute_us,
        catalogue_version=response.catalogue_version,
    )


def explanations(response: pb.ExplainResponse) -> Explanations:
    """Translate an answer."""
    return Explanations(
        items=tuple(
            ItemExplanation(
                item_id=item.item_id,
                score=item.score,
                history_changes=tuple(item.history_changes),
                source_changes={change.source: change.change for change in item.source_changes},
            )
            for item in response.items
        ),
        history=tuple(response.history),
        attention=tuple(response.attention),
        unknown_item_ids=tuple(response.unknown_item_ids),
        model_version=response.model_version,
        compute_us=response.compute_us,
        catalogue_version=response.catalogue_version,
    )
