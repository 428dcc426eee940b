"""What the operator's command says, from what the server said."""

import dataclasses

import pytest
from rich.console import Console

from mmsr.engine.admin_cli import duration, facts, failure, table, trial
from mmsr.engine.admin_client import CanaryStatus, FailedLoad, ServedModel, ServerStatus

MODEL = ServedModel(
    label="stable",
    model_version="0123456789abcdef",
    runner="ONNX Runtime CPUExecutionProvider",
    items=12_000,
    live_items=7,
    spare_rows=1_200,
    loaded_at="2026-01-02T03:04:05+00:00",
    queued=3,
    answered=123_456,
    refused=9,
    failed_load=None,
)


def shown(*models: ServedModel) -> str:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(table(models))
    return captured.get()


def test_what_answers_under_two_labels_fits_a_terminal() -> None:
    nothing = dataclasses.replace(MODEL, label="canary", model_version="", runner="", loaded_at="")
    text = shown(MODEL, nothing)
    for part in (
        "stable",
        "canary",
        MODEL.model_version,
        "none",
        MODEL.runner,
        "12,000",
        "123,456",
    ):
        assert part in text, text


def test_a_line_says_how_the_process_is() -> None:
    status = ServerStatus(
        state="serving",
        version="0.1.0",
        uptime_s=3_725.0,
        models=(MODEL,),
        default_label="stable",
        catalogue_version=42,
        memory_bytes=300 << 20,
    )
    assert facts(status) == (
        "serving, version 0.1.0, up 1 h 2 min, default label stable, catalogue version 42, 300 MiB"
    )


def test_a_canary_is_told_with_its_shadow_and_why_it_was_rolled_back() -> None:
    canary = CanaryStatus(
        label="canary",
        state="trying",
        percent=5.0,
        shadow_percent=0.0,
        requests=1_200,
        errors=3,
        compared=0,
        shadow_failed=0,
        shadow_dropped=0,
        overlap=0.0,
        rank_biased_overlap=0.0,
        rolled_back_at="",
        rolled_back_reason="",
    )
    assert trial(None) == ""
    first = "canary is a canary, trying: 5 % of the users, 1,200 requests, 3 failed\n"
    assert trial(canary) == first
    shadowed = dataclasses.replace(canary, shadow_percent=10.0, shadow_dropped=7)
    assert trial(shadowed) == f"{first}shadow of 10 %: 0 compared, 0 failed, 7 dropped\n"
    compared = dataclasses.replace(
        shadowed, compared=40, overlap=0.5, rank_biased_overlap=0.25, state="rolled back"
    )
    ended = dataclasses.replace(
        compared, rolled_back_at="2026-01-02", rolled_back_reason="b was rolled back: too late"
    )
    assert trial(ended).splitlines() == [
        "canary is a canary, rolled back: 5 % of the users, 1,200 requests, 3 failed",
        "shadow of 10 %: 40 compared, 0 failed, 7 dropped; overlap 0.500, rank-biased 0.250",
        "at 2026-01-02: b was rolled back: too late",
    ]


def test_a_load_that_failed_is_told_with_its_reason() -> None:
    failed = FailedLoad(model_version="fedcba9876543210", at="2026-01-02", reason="it is damaged")
    assert failure(MODEL) == ""
    assert failure(dataclasses.replace(MODEL, failed_load=failed)) == (
        "stable: fedcba9876543210 failed at 2026-01-02: it is damaged\n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (7_261, "2 h 1 min")]
)
def test_times_are_told_as_a_person_says_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
