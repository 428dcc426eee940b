from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from mmsr.engine.errors import EngineError, InvalidRequest, RunnerFailed
from mmsr.engine.rpc import Call, Outcome
from mmsr.engine.tracing import Tracing
from mmsr.v1 import recommender_pb2 as pb

METHOD = "mmsr.v1.Recommender/Recommend"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
ANSWER = pb.RecommendResponse(queue_us=1000, compute_us=3000, batch_size=8, model_version="m")
REQUEST = pb.RecommendRequest(history=["private-1"], user_key="private-2")


def spans_of(
    outcome: Outcome, metadata: dict[str, str | bytes] | None = None, ratio: float = 1.0
) -> dict[str, ReadableSpan]:
    """Return the spans of one call, by name."""
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter, ratio, "0.0")
    call = Call(METHOD, 0.0, None, "shop", metadata or {})
    tracing.began(METHOD)
    tracing.ended(call, outcome)
    tracing.close()
    return {span.name: span for span in exporter.get_finished_spans()}


def answered(response: Any = ANSWER) -> Outcome:
    return Outcome(0.005, None, REQUEST, response)


def failed(error: EngineError) -> Outcome:
    return Outcome(0.005, error, REQUEST)


def length_ms(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e6


def test_a_call_has_a_span_and_within_it_its_wait_and_its_computation() -> None:
    spans = spans_of(answered())
    assert set(spans) == {METHOD, "queue", "compute"}
    call, queue, compute = (spans[name] for name in (METHOD, "queue", "compute"))
    assert call.kind == SpanKind.SERVER
    assert [length_ms(span) for span in (call, queue, compute)] == pytest.approx([5, 1, 3])
    assert queue.start_time == call.start_time
    assert compute.start_time == queue.end_time
    for part in (queue, compute):
        assert part.parent is not None
        assert part.parent.span_id == call.context.span_id
    assert compute.attributes == {"mmsr.batch_size": 8}


def test_a_span_says_who_called_what_and_nothing_of_what_was_asked() -> None:
    metadata: dict[str, str | bytes] = {"x-request-id": "r-1", "authorization": "Bearer private-3"}
    spans = spans_of(answered(), metadata)
    assert spans[METHOD].attributes == {
        "rpc.system": "grpc",
        "rpc.service": "mmsr.v1.Recommender",
        "rpc.method": "Recommend",
        "rpc.grpc.status_code": 0,
        "mmsr.client": "shop",
        "mmsr.request_id": "r-1",
        "mmsr.model_version": "m",
    }
    assert "private" not in "".join(span.to_json() for span in spans.values())


def test_the_callers_trace_goes_on() -> None:
    call = spans_of(answered(), {"traceparent": SAMPLED}, ratio=0.0)[METHOD]
    assert f"{call.context.trace_id:032x}" == TRACE
    assert call.parent is not None
    assert f"{call.parent.span_id:016x}" == SPAN


def test_the_callers_decision_not_to_trace_holds() -> None:
    assert not spans_of(answered(), {"traceparent": NOT_SAMPLED}, ratio=1.0)


def test_without_a_caller_who_decides_the_ratio_does() -> None:
    assert not spans_of(answered(), ratio=0.0)
    assert spans_of(answered(), ratio=1.0)


@pytest.mark.parametrize("header", ["", "nonsense", "00-0-0-01", b"\xff"])
def test_a_header_that_is_none_begins_a_new_trace(header: str | bytes) -> None:
    call = spans_of(answered(), {"traceparent": header})[METHOD]
    assert call.parent is None


def test_a_failure_is_told_and_blamed_on_whom_it_belongs_to() -> None:
    ours = spans_of(failed(RunnerFailed("no")))[METHOD]
    theirs = spans_of(failed(InvalidRequest("no 'private-4'")))[METHOD]
    assert (ours.status.status_code, theirs.status.status_code) == (
        StatusCode.ERROR,
        StatusCode.UNSET,
    )
    assert theirs.attributes is not None
    assert theirs.attributes["rpc.grpc.status_code"] == 3
    assert theirs.attributes["error.type"] == "InvalidRequest"
    assert "private" not in theirs.to_json()


def test_of_a_batch_the_slowest_answer_is_shown() -> None:
    slow = pb.RecommendResponse(queue_us=1, compute_us=9000, batch_size=2)
    results = [pb.RecommendResult(response=answer) for answer in (ANSWER, slow)]
    failure = pb.RecommendResult(error=pb.RequestError(code="INTERNAL"))
    response = pb.RecommendBatchResponse(results=[*results, failure])
    assert length_ms(spans_of(answered(response))["compute"]) == pytest.approx(9)


def test_an_answer_that_was_not_computed_has_no_parts() -> None:
    assert set(spans_of(answered(pb.RecommendResponse(fallback=pb.FALLBACK_POPULARITY)))) == {
        METHOD
    }
