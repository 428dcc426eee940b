"""What goes through the folder between the command and the generator comes out the same."""

from pathlib import Path

import numpy as np

from mmsr.engine.bench.exchange import (
    Outcome,
    read_order,
    read_outcome,
    write_order,
    write_outcome,
)
from mmsr.engine.bench.plan import RunPlan, Window
from mmsr.engine.bench.samples import OK, Answer, Recorder


def test_an_order_arrives_as_it_was_given(tmp_path: Path) -> None:
    plan = RunPlan(rate_per_s=12.5, window=Window(seed=3, deadline_ms=10))
    requests = [b"one", b"", b"\x00three"]
    write_order(tmp_path, "host:1", plan, requests)
    assert read_order(tmp_path) == ("host:1", plan, requests)


def test_an_outcome_arrives_as_it_was_given(tmp_path: Path) -> None:
    recorder = Recorder(10.0)
    recorder.add((11.0, 11.5, 12.0), OK, Answer(4_000_000_000, 2, 3, 1))
    recorder.add((12.0, 12.5, 13.0), 14, Answer())
    outcome = Outcome(
        sent_for_s=1.0,
        cpu_s=0.5,
        interrupted=True,
        event_loop="asyncio",
        model_versions=["v"],
        first_details={"UNAVAILABLE": "gone"},
    )
    write_outcome(tmp_path, outcome, recorder.samples())
    found = read_outcome(tmp_path)
    assert found is not None
    assert found[0] == outcome
    assert found[1].intended_s_R.tolist() == [1.0, 2.0]
    assert found[1].status_R.tolist() == [OK, 14]
    assert found[1].queue_us_R.tolist() == [4_000_000_000, 0]
    assert found[1].fallback_R.dtype == np.uint8


def test_no_outcome_is_none(tmp_path: Path) -> None:
    assert read_outcome(tmp_path) is None
