from collections import Counter
from typing import Any

import pytest
from support.loads import deployment

from mmsr.engine.call_stats import CallStats as Stats
from mmsr.engine.call_stats import Histogram
from mmsr.engine.errors import EngineError, InvalidRequest, Overloaded, RateExceeded
from mmsr.engine.rpc import Call, Outcome
from mmsr.engine.serving import Serving
from mmsr.engine.split import Split
from mmsr.v1 import catalogue_pb2
from mmsr.v1 import recommender_pb2 as pb

RECOMMEND = "mmsr.v1.Recommender/Recommend"
BATCH = "mmsr.v1.Recommender/RecommendBatch"
STREAM = "mmsr.v1.Recommender/RecommendStream"
DELETE = "mmsr.v1.Catalogue/DeleteItems"


@pytest.fixture
def stats() -> Stats:
    serving = Serving("stable", Split(label="canary", share=0.1))
    for label in ("stable", "canary"):
        serving.use(label, deployment(label))
    return Stats(serving)


def answer(**what: Any) -> pb.RecommendResponse:
    return pb.RecommendResponse(item_ids=["a"], **what)


def ended(stats: Stats, method: str, error: EngineError | None, *messages: Any) -> None:
    stats.began(method)
    stats.ended(Call(method, 0.0, None), Outcome(0.004, error, *messages))


def filled(histogram: Histogram) -> dict[float, int]:
    """Return the buckets with something in them, by their upper bound."""
    bounds = (*histogram.bounds, float("inf"))
    return {b: n for b, n in zip(bounds, histogram.counts, strict=True) if n}


def test_a_value_falls_in_the_first_bucket_that_is_not_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.add(value)
    assert filled(histogram) == {1.0: 2, 2.0: 2, float("inf"): 1}
    assert histogram.total == 14.0


def test_an_answer_is_counted_with_its_times_under_its_method_and_label(stats: Stats) -> None:
    response = answer(queue_us=600, compute_us=2500, batch_size=4, unknown_ids=2)
    ended(stats, RECOMMEND, None, pb.RecommendRequest(), response)
    ended(stats, RECOMMEND, None, pb.RecommendRequest(label="canary"), response)
    assert set(stats.series) == {(RECOMMEND, "stable"), (RECOMMEND, "canary")}
    series = stats.series[RECOMMEND, "stable"]
    assert filled(series.total) == {0.005: 1}
    assert filled(series.queue) == {0.001: 1}
    assert filled(series.compute) == {0.003: 1}
    assert (series.answers, series.unknown_ids, series.fallbacks) == (1, 2, 0)
    assert stats.calls == {(RECOMMEND, "OK"): 2}
    assert not stats.refusals


def test_who_is_split_off_is_counted_under_the_label_that_answered(stats: Stats) -> None:
    asked = [pb.RecommendRequest(user_key=f"user-{number}") for number in range(9)]  # 8: split off
    for request in asked:
        ended(stats, RECOMMEND, None, request, answer())
    results = [pb.RecommendResult(response=answer()) for _ in asked]
    batch = pb.RecommendBatchResponse(results=results)
    ended(stats, BATCH, None, pb.RecommendBatchRequest(requests=asked), batch)
    answers = {key: series.answers for key, series in stats.series.items()}
    by_label = {"stable": 8, "canary": 1}
    assert answers == {(m, label): n for m in (RECOMMEND, BATCH) for label, n in by_label.items()}


def test_an_answer_that_was_not_computed_has_no_times(stats: Stats) -> None:
    ended(stats, RECOMMEND, None, pb.RecommendRequest(), answer(fallback=1, unknown_ids=1))
    series = stats.series[RECOMMEND, "stable"]
    assert (filled(series.queue), filled(series.compute)) == ({}, {})
    assert (series.fallbacks, series.answers) == (1, 1)


def test_a_refusal_is_counted_by_status_and_cause_and_not_among_the_times(stats: Stats) -> None:
    ended(stats, RECOMMEND, InvalidRequest("no"), pb.RecommendRequest())
    ended(stats, RECOMMEND, Overloaded("no", 1), pb.RecommendRequest())
    ended(stats, RECOMMEND, RateExceeded("no", 1))
    assert stats.refusals == {
        (RECOMMEND, "INVALID_ARGUMENT", "InvalidRequest"): 1,
        (RECOMMEND, "RESOURCE_EXHAUSTED", "Overloaded"): 1,
        (RECOMMEND, "RESOURCE_EXHAUSTED", "RateExceeded"): 1,
    }
    assert not stats.series


def test_labels_that_callers_invent_share_one_series(stats: Stats) -> None:
    for number in range(100):
        request = pb.RecommendRequest(label=f"invented-{number}")
        ended(stats, RECOMMEND, None, request, answer())
    assert list(stats.series) == [(RECOMMEND, "unknown")]


def test_each_result_of_a_batch_counts(stats: Stats) -> None:
    request = pb.RecommendBatchRequest(
        requests=[pb.RecommendRequest(), pb.RecommendRequest(label="canary"), pb.RecommendRequest()]
    )
    response = pb.RecommendBatchResponse(
        results=[
            pb.RecommendResult(response=answer(queue_us=1, compute_us=2500)),
            pb.RecommendResult(response=answer(queue_us=1, compute_us=2500)),
            pb.RecommendResult(error=pb.RequestError(code="INVALID_ARGUMENT")),
        ]
    )
    ended(stats, BATCH, None, request, response)
    assert {key: series.answers for key, series in stats.series.items()} == {
        (BATCH, "stable"): 1,
        (BATCH, "canary"): 1,
    }
    assert filled(stats.series[BATCH, "canary"].compute) == {0.003: 1}
    assert stats.refusals == {(BATCH, "INVALID_ARGUMENT", "Result"): 1}
    assert filled(stats.series[BATCH, "stable"].total) == {0.005: 1}  # the call's own


def test_each_answer_on_a_stream_counts_and_its_life_is_no_latency(stats: Stats) -> None:
    stats.began(STREAM)
    call = Call(STREAM, 0.0, None)
    request = pb.RecommendStreamRequest(request=pb.RecommendRequest(label="canary"))
    result = pb.RecommendResult(response=answer(queue_us=1, compute_us=2500))
    for _ in range(3):
        stats.streamed(call, request, pb.RecommendStreamResponse(result=result))
    assert stats.in_flight == {STREAM: 1}
    stats.ended(call, Outcome(100.0, None, request))
    series = stats.series[STREAM, "canary"]
    assert (series.answers, filled(series.total)) == (3, {})
    assert stats.in_flight == {STREAM: 0}
    assert stats.calls == {(STREAM, "OK"): 1}


def test_a_service_without_labels_and_times_is_counted_too(stats: Stats) -> None:
    request = catalogue_pb2.DeleteItemsRequest(item_ids=["a"])
    ended(stats, DELETE, None, request, catalogue_pb2.DeleteItemsResponse(catalogue_version=3))
    assert list(stats.series) == [(DELETE, "")]
    assert stats.calls == Counter({(DELETE, "OK"): 1})
