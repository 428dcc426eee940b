"""What the null server's and the batching benchmark conclude from their blocks."""

import pytest

from benchmarks.null_server import BUSY, judge
from benchmarks.rivals.load import Block, Plan
from benchmarks.rivals.serving import as_json
from benchmarks.rivals.tally import Measured


def block(per_s: int, ms: float, cpu_ms: float) -> Block:
    return Block(
        plan=Plan(concurrency=1, duration_s=1.0),
        latency_s=[ms / 1e3] * per_s,
        done_in_time=per_s,
        all_answers=per_s,
        server_cpu_s=per_s * cpu_ms / 1e3,
    )


def entrant(name: str, per_s: int, ms: float, cpu_ms: float) -> Measured:
    return Measured(
        name=name, closed={1: [block(100, ms, cpu_ms)], BUSY: [block(per_s, 20.0, cpu_ms)]}
    )


def test_the_null_server_is_held_against_the_best_echo_at_each_load() -> None:
    verdict = judge(
        [
            entrant("null", 900, 0.7, 0.25),
            entrant("aio", 800, 0.5, 0.3),
            entrant("uvloop", 1000, 0.6, 0.2),
        ]
    )
    assert (verdict.best, verdict.quickest) == ("uvloop", "aio")
    assert verdict.rate.median == pytest.approx(0.9)
    assert verdict.cpu_rate.median == pytest.approx(0.8)
    assert verdict.added_ms.median == pytest.approx(0.2)
    assert verdict.added_cpu_ms == pytest.approx(0.05)
    assert verdict.sentence().count("reached") == 2


def test_what_falls_short_is_called_missed() -> None:
    verdict = judge([entrant("null", 500, 1.5, 0.5), entrant("aio", 1000, 0.5, 0.2)])
    assert verdict.sentence().count("missed") == 2


def test_what_is_infinite_is_null_in_json() -> None:
    assert as_json({"p99_ms": float("inf"), "n": [1, float("nan")]}) == {
        "p99_ms": None,
        "n": [1, None],
    }
