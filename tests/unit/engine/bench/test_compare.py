"""Two reports as ratios: what is common, what is worse, and what is only noise."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.load_report import run_of

from mmsr.engine.bench.blocks import Block
from mmsr.engine.bench.compare import (
    Ratio,
    blocks_by_name,
    compare_blocks,
    compare_files,
    parse_percent,
    read_report,
)
from mmsr.engine.bench.compare_tables import verdict
from mmsr.engine.bench.histograms import encode
from mmsr.engine.bench.live import live_blocks, order_of
from mmsr.engine.bench.machine import describe_environment
from mmsr.engine.bench.plan import BenchError, RunPlan, Window
from mmsr.engine.bench.report import REPORT_FORMAT
from mmsr.engine.bench.server_bench import Load, Subject

PLAN = RunPlan(rate_per_s=100, window=Window())


def second(random: np.random.Generator, mean_ms: float, requests: int = 100) -> Block:
    latency_ms = random.gamma(20.0, mean_ms / 20.0, requests)
    return Block(
        start_s=0.0,
        seconds=1.0,
        requests=requests,
        answered=requests,
        good=int((latency_ms < 20).sum()),
        refused=0,
        p50_ms=None,
        p99_ms=None,
        histogram=encode(latency_ms),
    )


def seconds(seed: int, mean_ms: float, spread: float = 0.02, count: int = 30) -> list[Block]:
    """Seconds whose means differ by `spread`, as a machine's do."""
    random = np.random.default_rng(seed)
    return [second(random, mean_ms * random.normal(1.0, spread)) for _ in range(count)]


def ratios(a: list[Block], b: list[Block], limit: float = 0.05) -> dict[str, Ratio]:
    (compared,) = compare_blocks({"load": a}, {"load": b}, limit)
    return {ratio.metric: ratio for ratio in compared.ratios}


def test_a_server_that_is_a_quarter_slower_is_a_regression() -> None:
    p50 = ratios(seconds(1, 8.0), seconds(2, 10.0))["p50 ms"]
    assert p50.ratio == pytest.approx(1.25, abs=0.03)
    assert p50.bounds is not None
    low, high = p50.bounds
    assert high is not None
    assert low < 1.25 < high
    assert p50.regression
    assert verdict(p50) == "REGRESSION"
    assert not ratios(seconds(1, 8.0), seconds(2, 10.0), limit=0.30)["p50 ms"].regression


def test_a_faster_server_is_better_and_no_regression() -> None:
    p50 = ratios(seconds(1, 10.0), seconds(2, 8.0))["p50 ms"]
    assert not p50.regression
    assert p50.worse_by is not None
    assert p50.worse_by < -0.15
    assert verdict(p50) == "better"


def test_a_difference_that_may_be_noise_accuses_nobody() -> None:
    noisy = ratios(seconds(1, 8.0, 0.4, count=8), seconds(5, 8.6, 0.4, count=8))["p50 ms"]
    assert not noisy.regression
    assert verdict(noisy) == "no difference seen"


def test_fewer_answers_in_time_are_a_regression_of_goodput() -> None:
    fast = seconds(1, 8.0)
    half = [Block(**{**asdict(block), "good": block.good // 2}) for block in fast]
    goodput = ratios(fast, half)["good/s"]
    assert goodput.ratio == pytest.approx(0.5, abs=0.01)
    assert goodput.regression


def test_a_percentile_without_samples_enough_is_no_ratio() -> None:
    few = ratios(seconds(1, 8.0, count=9), seconds(2, 8.0, count=30))["p99 ms"]
    assert (few.ratio, few.regression, verdict(few)) == (None, False, "–")


def test_equal_loads_are_pooled_and_void_runs_left_out() -> None:
    run = {"plan": PLAN.to_json(), "blocks": [asdict(b) for b in seconds(1, 8.0, count=3)]}
    other = {**run, "void": "the generator was late"}
    report = {"runs": [{**run, "void": None}, {**run, "void": None}, other]}
    found = blocks_by_name(report)
    assert {name: len(blocks) for name, blocks in found.items()} == {"open, 100/s": 6}


def report_file(path: Path, mean_ms: float, **changes: Any) -> Path:
    blocks = [asdict(block) for block in seconds(int(mean_ms), mean_ms)]
    run = {"plan": PLAN.to_json(), "void": None, "blocks": blocks}
    report = {
        "format": REPORT_FORMAT,
        "scenario": "server",
        "environment": describe_environment().to_json(),
        "bundle_id": "b",
        "runs": [run],
    }
    path.write_text(json.dumps(report | changes))
    return path


def test_reports_are_compared_from_their_files(tmp_path: Path) -> None:
    a, b = report_file(tmp_path / "a.json", 8.0), report_file(tmp_path / "b.json", 12.0)
    here = describe_environment()
    assert compare_files(a, b, 0.05, here).regressed
    assert not compare_files(b, a, 0.05, here).regressed
    assert not compare_files(a, a, 0.0, here).regressed


def test_reports_without_a_common_load_are_one_line(tmp_path: Path) -> None:
    a = report_file(tmp_path / "a.json", 8.0)
    plan = RunPlan(concurrency=4, window=Window())
    run = {"plan": plan.to_json(), "void": None, "blocks": [asdict(b) for b in seconds(1, 8.0)]}
    b = report_file(tmp_path / "b.json", 8.0, runs=[run])
    expected = "nothing in common: A has open, 100/s; B has closed, 4 at once"
    with pytest.raises(BenchError, match=expected):
        compare_files(a, b, 0.05, describe_environment())


@pytest.mark.parametrize("changes", [{"format": 1}, {"runs": None}])
def test_what_is_no_report_is_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = report_file(tmp_path / "a.json", 8.0, **changes)
    with pytest.raises(BenchError, match="expected a report of mmsr-bench, format 2"):
        read_report(path)


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.1", 0.1), ("0%", 0.0)])
def test_a_limit_is_a_share_or_percents(text: str, share: float) -> None:
    assert parse_percent(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["five", "-1%", "200%", "nan"])
def test_another_limit_is_one_line(text: str) -> None:
    with pytest.raises(BenchError, match="max-regression is"):
        parse_percent(text)


def test_both_sides_come_first_as_often() -> None:
    assert "".join(order_of(5)) == "ABBAABBAAB"


def test_void_runs_of_a_live_comparison_are_left_out_too() -> None:
    window = Window(warm_up_s=0.5, duration_s=2.0)
    good = run_of(RunPlan(rate_per_s=100, window=window))
    load = Load(Subject(target="h:1", repository=Path("r"), label="stable", k=5), Path("b"), [])
    load.runs = [good, replace(good, void="the generator was late"), good]
    assert live_blocks(load) == {"open, 100/s": [*good.blocks, *good.blocks]}
