"""What goes through the folder between the command and the generator comes out the same."""

from pathlib import Path

import numpy as np

from mmsr.engine.bench.exchange import (
    Order,
    Outcome,
    all_ready,
    read_order,
    read_outcome,
    read_start,
    say_ready,
    write_order,
    write_outcome,
    write_start,
)
from mmsr.engine.bench.plan import RunPlan, Window
from mmsr.engine.bench.samples import OK, Answer, Recorder, Samples


def outcome_of(*versions: str, sent_for_s: float = 1.0, details: str = "gone") -> Outcome:
    return Outcome(
        sent_for_s=sent_for_s,
        cpu_s=0.5,
        interrupted=True,
        event_loop="asyncio",
        model_versions=list(versions),
        first_details={"UNAVAILABLE": details},
    )


def recorded(*versions: int) -> Samples:
    recorder = Recorder(10.0)
    for second, version in enumerate(versions):
        times_s = (11.0 + second, 11.5 + second, 12.0 + second)
        recorder.add(times_s, OK, Answer(4_000_000_000, 2, 3, 1, version))
    return recorder.samples()


def test_an_order_arrives_as_it_was_given(tmp_path: Path) -> None:
    plan = RunPlan(rate_per_s=12.5, window=Window(seed=3, deadline_ms=10))
    order = Order(target="host:1", plan=plan, requests=[b"one", b"", b"\x00three"])
    write_order(tmp_path, order)
    assert read_order(tmp_path) == order


def test_an_outcome_arrives_as_it_was_given(tmp_path: Path) -> None:
    outcome = outcome_of("v")
    write_outcome(tmp_path, 0, outcome, recorded(1, 0))
    found = read_outcome(tmp_path, 1)
    assert found is not None
    assert found[0] == outcome
    assert found[1].intended_s_R.tolist() == [1.0, 2.0]
    assert found[1].status_R.tolist() == [OK, OK]
    assert found[1].queue_us_R.tolist() == [4_000_000_000] * 2
    assert found[1].fallback_R.dtype == np.uint8


def test_what_several_processes_found_is_one_run(tmp_path: Path) -> None:
    write_outcome(tmp_path, 0, outcome_of("old", "new"), recorded(1, 2))
    write_outcome(
        tmp_path, 1, outcome_of("new", "newest", sent_for_s=2.0, details="late"), recorded(0, 1, 2)
    )
    found = read_outcome(tmp_path, 2)
    assert found is not None
    outcome, samples = found
    assert outcome.model_versions == ["old", "new", "newest"]
    assert samples.version_R.tolist() == [1, 2, 0, 2, 3]  # by the names, not by the numbers
    assert (outcome.sent_for_s, outcome.cpu_s) == (2.0, 1.0)
    assert outcome.first_details == {"UNAVAILABLE": "gone"}  # the first process's


def test_a_process_that_wrote_nothing_is_none(tmp_path: Path) -> None:
    assert read_outcome(tmp_path, 1) is None
    write_outcome(tmp_path, 0, outcome_of("v"), recorded(1))
    assert read_outcome(tmp_path, 2) is None


def test_all_begin_when_all_are_ready(tmp_path: Path) -> None:
    say_ready(tmp_path, 1)
    assert not all_ready(tmp_path, 2)
    say_ready(tmp_path, 0)
    assert all_ready(tmp_path, 2)
    assert read_start(tmp_path) is None
    write_start(tmp_path, 12.25)
    assert read_start(tmp_path) == 12.25
