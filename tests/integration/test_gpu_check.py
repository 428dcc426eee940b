"""gpu-check as a command, on a machine without a GPU: tiny sizes, and what it does when it cannot.

TensorRT-RTX, which some sections try, has wheels for Linux on x86-64 alone.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.runner_conformance import CHECKS
from support.tree import ROOT, SOURCE_ROOTS

from benchmarks.gpu.graphs import sequence_file, write_graphs
from benchmarks.gpu.latency import onnx_latency
from benchmarks.gpu.setting import Findings, SectionSkippedError, Setting
from mmsr.export import folding
from mmsr.export import forms as deciding
from mmsr.export.onnx_file import describe

HAS_WHEEL = sys.platform == "linux" and platform.machine() == "x86_64"
pytestmark = pytest.mark.skipif(not HAS_WHEEL, reason="TensorRT-RTX has no wheel for this platform")


def run_gpu_check(*options: str, out: Path) -> subprocess.CompletedProcess[str]:
    """Run it as `make gpu-check` does; modules that lie in `out` hide the installed ones."""
    roots = os.pathsep.join([str(out), *(str(ROOT / root) for root in (*SOURCE_ROOTS, "tests"))])
    environment = {**os.environ, "PYTHONPATH": roots, "OUT": str(out), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "benchmarks.gpu", *options]
    return subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_gpu_check_tries_its_sections_on_a_cpu(tmp_path: Path) -> None:
    sections = ["graphs", "eager", "onnx", "runners", "top-k"]
    done = run_gpu_check("--cpu", "--quick", "--only", *sections, out=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu-check-dry-run.json").read_text())["sections"]
    assert {name: section["outcome"] for name, section in found.items()} == dict.fromkeys(
        sections, "done"
    )
    forms = ["folded rows, flat top-K", "folded rows, chunked top-K"]
    for section in ("graphs", "onnx"):
        told = [cell["form"] for cell in found[section]["cells"] if "form" in cell]
        assert told == forms
    for name in ("eager", "onnx"):
        gates = [cell["gate"] for cell in found[name]["cells"] if "gate" in cell]
        assert [gate["overlap"] for gate in gates] == [1.0, 1.0]
        assert len([cell for cell in found[name]["cells"] if "wall_p50_ms" in cell]) == 4
    suite = [cell["outcome"] for cell in found["runners"]["cells"] if "check" in cell]
    assert suite == ["passed"] * len(CHECKS)
    assert len(found["top-k"]["cells"]) == 6
    assert all(cell["same_scores"] for cell in found["top-k"]["cells"])
    assert (tmp_path / "gpu-check-dry-run.md").read_text().startswith("DRY RUN")


def test_a_section_that_dies_is_reported_and_costs_the_others_nothing(tmp_path: Path) -> None:
    (tmp_path / "tensorrt_rtx.py").write_text("import os\nos.abort()\n")
    done = run_gpu_check("--cpu", "--quick", "--only", "tensorrt-rtx", "image-onnx", out=tmp_path)
    found = json.loads((tmp_path / "gpu-check-dry-run.json").read_text())["sections"]
    assert found["tensorrt-rtx"]["outcome"].startswith("FAILED (signal 6")
    assert found["image-onnx"]["outcome"] == (
        "skipped: image.onnx was not converted (see the section on graphs)"
    )
    assert done.returncode == 1


def test_a_section_that_hangs_is_ended_and_the_run_with_it(tmp_path: Path) -> None:
    (tmp_path / "tensorrt_rtx.py").write_text("import threading\nthreading.Event().wait()\n")
    done = run_gpu_check(
        "--cpu", "--quick", "--seconds", "9", "--only", "tensorrt-rtx", "eager", out=tmp_path
    )
    found = json.loads((tmp_path / "gpu-check-dry-run.json").read_text())["sections"]
    assert found["tensorrt-rtx"]["outcome"] == "FAILED: ended after 9 s"
    assert found["eager"]["outcome"] == "skipped: the time of the whole run was up"
    assert done.returncode == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_cuda_gpu_check_says_so_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    done = run_gpu_check(out=tmp_path)
    assert done.returncode == 3
    assert done.stdout.count("\n") == 1
    assert "no CUDA device" in done.stdout
    assert not list(tmp_path.iterdir())


def test_what_large_catalogues_get_is_converted_asked_and_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the decisions of a million items, with the tables of some hundred."""
    quick = Setting(work=tmp_path, device="cpu", quick=True)
    monkeypatch.setattr(folding, "MOST_BYTES", 0)
    monkeypatch.setattr(deciding, "CHUNKED_FROM", 0)
    monkeypatch.setattr(Setting, "items", (200, 300))
    with pytest.raises(SectionSkippedError, match=r"plain-chunked-0\.onnx was not"):
        sequence_file(quick, 200, 0, False)
    findings = Findings(path=tmp_path / "graphs.json")
    write_graphs(quick, findings)
    told = [(c["items"], c["form"], c["columns"]) for c in findings.cells if "form" in c]
    assert told == [(n, "plain rows, chunked top-K", 64) for n in (200, 300)]
    assert [c["graph"] for c in findings.cells if "graph" in c] == ["sequence-plain-chunked-0.onnx"]
    graph = sequence_file(quick, 300, 0, False)
    (rows,) = [t for t in describe(graph.path).inputs if t.name == "item_inputs"]
    assert (rows.shape, graph.folded_by) == (("R", 64), None)
    answered = Findings(path=tmp_path / "onnx.json")
    onnx_latency(quick, answered, graphed=False)
    gates = [cell for cell in answered.cells if "gate" in cell]
    assert [cell["gate"]["overlap"] for cell in gates] == [1.0, 1.0]
    assert {cell["form"] for cell in gates} == {graph.form}
