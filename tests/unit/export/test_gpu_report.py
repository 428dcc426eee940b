"""The report of gpu-check: its first line, its goals, and that nothing found is lost."""

from typing import Any

from benchmarks.gpu.report import first_line, goals, to_markdown

HEAD = {
    "date": "2026-11-23 20:00 UTC",
    "commit": "abc",
    "command": "python3 -m benchmarks.gpu",
    "seconds": 500.0,
    "device": "cuda",
    "gpu": "NVIDIA H200",
}


def section(outcome: str = "done", cells: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "seconds": 3.0,
        "failed": False,
        "values": {},
        "cells": cells or [],
        "notes": [],
    }


def timed(wall_p50_ms: float, batch: int = 1, items: int = 12_000) -> dict[str, Any]:
    return {
        "items": items,
        "batch": batch,
        "calls": 10,
        "wall_p50_ms": wall_p50_ms,
        "wall_p99_ms": wall_p50_ms * 2,
        "device_p50_ms": None,
        "requests_per_s": 1000.0,
    }


def test_a_gpu_without_tensorrt_is_said_first_with_the_error_seen() -> None:
    results = {"tensorrt": section("skipped: cannot be imported"), "onnx": section()}
    assert first_line(HEAD, results) == (
        "TensorRT has NOT been run on a GPU. TensorRT: skipped: cannot be imported"
    )


def test_an_engine_that_was_built_and_not_run_is_not_taken_for_run() -> None:
    results = {"tensorrt-rtx": section(cells=[{"items": 12_000, "gate": {"overlap": 1.0}}])}
    assert "NOT" in first_line(HEAD, results)
    results["tensorrt-rtx"]["cells"].append(timed(0.1))
    assert first_line(HEAD, results) == "TensorRT-RTX has been run on NVIDIA H200."


def test_goals_compare_batch_one_on_the_smallest_catalogue() -> None:
    results = {
        "tensorrt": section(cells=[timed(0.01, batch=8), timed(9.0, items=10**6), timed(0.2)]),
        "onnx": section(cells=[timed(0.3)]),
        "eager": section(cells=[timed(1.0)]),
    }
    found = [measured for _, measured in goals(results)]
    assert found[0] == "1/5.00 (TensorRT 0.2 ms, PyTorch eager 1 ms)"
    assert found[1].startswith("1/1.50 ")
    assert found[2] == "not measured"


def test_a_top_k_with_other_scores_wins_nothing() -> None:
    cells = [
        {"way": "wrong", "batch": 1, "same_scores": False, "times_the_floor": 1.0},
        {"way": "right", "batch": 1, "same_scores": True, "times_the_floor": 3.0},
    ]
    assert list(goals({"top-k": section(cells=cells)}))[2][1] == "3.00 times (right)"


def test_every_section_stands_in_the_report_and_no_text_breaks_a_table() -> None:
    results = {
        "onnx": section("FAILED (a | b)", [timed(0.25)]),
        "refit": section(cells=[{"way": "refitted", "ready_s": 0.125}]),
    }
    text = to_markdown(HEAD, results)
    assert "| ONNX Runtime, IO binding | 3.0 | FAILED (a / b) |" in text
    assert "| ONNX Runtime, IO binding | 12,000 | 1 | 0.25 | 0.5 | – | 1,000 |" in text
    assert "| refitted | 0.125 |" in text


def test_a_dry_run_says_so_and_claims_no_goal() -> None:
    text = to_markdown({**HEAD, "device": "cpu"}, {"eager": section(cells=[timed(1.0)])})
    assert text.startswith("DRY RUN on a CPU")
    assert "Goals" not in text
