from mmsr.engine.oip_statistics import ModelTotals, RequestTimes, RowTimes


def times(*rows: RowTimes, total_ns: int = 9_000) -> RequestTimes:
    return RequestTimes(total_ns=total_ns, input_ns=100, output_ns=200, rows=rows)


def test_nothing_is_counted_at_first() -> None:
    message = ModelTotals().message("recommender", "1")
    assert (message.inference_count, message.execution_count, message.last_inference) == (0, 0, 0)
    assert message.inference_stats.success.count == 0
    assert not message.batch_stats


def test_a_request_waits_as_long_as_its_last_row() -> None:
    totals = ModelTotals()
    totals.succeeded(times(RowTimes(5, 10, 2), RowTimes(20, 7, 1)), now_ms=77)
    message = totals.message("recommender", "1")
    stats = message.inference_stats
    assert (stats.success.count, stats.success.ns) == (1, 9_000)
    assert (stats.queue.count, stats.queue.ns) == (1, 20_000)
    assert (stats.compute_infer.count, stats.compute_infer.ns) == (1, 7_000)
    assert (stats.compute_input.ns, stats.compute_output.ns) == (100, 200)
    assert (message.last_inference, message.inference_count) == (77, 2)


def test_rows_of_one_batch_make_one_execution_whichever_requests_they_came_with() -> None:
    totals = ModelTotals()
    for _ in range(3):
        totals.succeeded(times(RowTimes(1, 30, 3)), now_ms=1)
    totals.succeeded(times(RowTimes(1, 10, 1)), now_ms=2)
    message = totals.message("recommender", "1")
    assert (message.inference_count, message.execution_count) == (4, 2)
    found = [(b.batch_size, b.compute_infer.count, b.compute_infer.ns) for b in message.batch_stats]
    assert found == [(1, 1, 10_000), (3, 1, 30_000)]


def test_an_answer_without_a_computation_is_no_execution() -> None:
    totals = ModelTotals()
    totals.succeeded(times(RowTimes(0, 0, 0)), now_ms=1)
    message = totals.message("recommender", "1")
    assert (message.inference_count, message.execution_count) == (1, 0)


def test_failures_are_counted_apart() -> None:
    totals = ModelTotals()
    totals.failed(500)
    stats = totals.message("recommender", "1").inference_stats
    assert (stats.fail.count, stats.fail.ns, stats.success.count) == (1, 500, 0)
