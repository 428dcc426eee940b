import json
import logging
import sys
from typing import Any

import pytest

from mmsr.engine.call_log import LINES_AT_ONCE, CallLog
from mmsr.engine.errors import Bug, EngineError, InvalidRequest, RunnerFailed
from mmsr.engine.log_lines import JsonFormatter, TextFormatter
from mmsr.engine.rpc import Call, Outcome
from mmsr.v1 import recommender_pb2 as pb

METHOD = "mmsr.v1.Recommender/Recommend"
REQUEST = pb.RecommendRequest(history=["private-1"], label="canary", user_key="private-2")


def ended(
    log: CallLog, error: EngineError | None, request: Any = REQUEST, request_id: str = "r-1"
) -> None:
    metadata = {"x-request-id": request_id, "authorization": "Bearer private-3"}
    call = Call(METHOD, 0.0, None, "shop", metadata)
    log.ended(call, Outcome(0.0123456, error, request))


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(JsonFormatter().format(record)) for record in caplog.records]


def test_a_call_that_failed_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    ended(CallLog(), InvalidRequest("history holds 'private-4'"))
    [line] = lines(caplog)
    del line["time"]
    assert line == {
        "level": "WARNING",
        "logger": "mmsr.engine.call_log",
        "message": "call failed",
        "method": METHOD,
        "client": "shop",
        "request_id": "r-1",
        "code": "INVALID_ARGUMENT",
        "cause": "InvalidRequest",
        "label": "canary",
        "ms": 12.346,
    }


def test_no_line_says_what_was_asked_or_by_which_token(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        for every in (False, True):
            ended(CallLog(every), InvalidRequest("history holds 'private-4'"))
            ended(CallLog(every), None)
    assert len(caplog.records) == 3
    for formatter in (JsonFormatter(), TextFormatter()):
        assert not [r for r in caplog.records if "private" in formatter.format(r)]


def test_what_is_the_servers_fault_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    ended(CallLog(), RunnerFailed("the computation failed"))
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_bug_is_not_logged_twice(caplog: pytest.LogCaptureFixture) -> None:
    ended(CallLog(), Bug("internal error"))
    assert not caplog.records


def test_calls_that_went_well_are_logged_only_when_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        ended(CallLog(), None)
        assert not caplog.records
        ended(CallLog(every=True), None)
    [line] = lines(caplog)
    assert (line["message"], line["code"]) == ("call", "OK")


@pytest.mark.parametrize("text", ["x" * 200, "two\nlines", "ümlaut", "\x1b[31m"])
def test_a_callers_text_that_would_garble_the_log_is_left_out(
    caplog: pytest.LogCaptureFixture, text: str
) -> None:
    ended(CallLog(), InvalidRequest("no"), pb.RecommendRequest(label=text), request_id=text)
    [line] = lines(caplog)
    assert not {"label", "request_id"} & line.keys()


def test_a_flood_of_refusals_is_no_flood_of_lines(caplog: pytest.LogCaptureFixture) -> None:
    log = CallLog()
    for _ in range(10 * int(LINES_AT_ONCE)):
        ended(log, InvalidRequest("no"))
    assert LINES_AT_ONCE <= len(caplog.records) < 2 * LINES_AT_ONCE


def record_of(**extra: Any) -> logging.LogRecord:
    log = logging.getLogger("shop")
    return log.makeRecord("shop", logging.INFO, "f", 1, "hello %s", ("you",), None, extra=extra)


def test_a_text_line_ends_with_its_fields() -> None:
    line = TextFormatter().format(record_of(fields={"method": "M", "ms": 1.5}))
    assert line.endswith("Z INFO hello you method=M ms=1.5")


def test_a_json_line_is_one_line_with_the_traceback_in_it() -> None:
    record = record_of()
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        record.exc_info = sys.exc_info()
    line = JsonFormatter().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert found["message"] == "hello you"
    assert "ValueError: first" in found["exception"]
