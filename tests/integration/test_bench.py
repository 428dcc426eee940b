"""`mmsr-bench` as a process against `mmsr-serve` as a process, over a real socket."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.serving import PATIENCE_S, Served, serving
from support.tiny_bundle import Sizes, publish

from mmsr.bundle.repository import Repository

BIN = Path(sys.executable).parent
SIZES = Sizes(items=2000, width=32, max_length=20, probes=50)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench") / "repository"
    publish(root, SIZES)
    return root


@pytest.fixture
def served(repository: Path) -> Iterator[Served]:
    with serving(repository) as server:
        yield server


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(part) for part in (BIN / "mmsr-bench", *arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


def measure(report: Path, *arguments: object) -> tuple[str, dict[str, Any]]:
    done = bench(*arguments, "--json", report)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(report.read_text())
    return done.stdout, found


def test_both_loops_measure_the_real_server(
    served: Served, repository: Path, tmp_path: Path
) -> None:
    loads = ("--concurrency", "1,16", "--rate", "50", "--duration-s", "2", "--warm-up-s", "0.5")
    common = ("--repository", repository, "--k", "10")
    out, report = measure(tmp_path / "r.json", "server", served.target, *common, *loads)
    bundle_id = Repository(repository).resolve("stable").name
    assert report["history_source"] == "probe"
    assert report["histories"] == SIZES.probes
    assert len(report["runs"]) == 3
    for run in report["runs"]:
        assert run["errors"] == {}
        assert run["model_versions"] == [bundle_id]
        assert run["fallbacks"] == 0
        assert run["answered"] == run["requests"] > 50
        assert run["latency_ms"]["p50"] > run["compute_us"] / 1e3 > 0
        assert run["measured_s"] == 2.0
    alone, sixteen, opened = report["runs"]
    assert alone["batch_size"] == 1.0
    assert sixteen["batch_size"] > 1.0  # requests that wait together ride together
    assert opened["lag_ms"]["p50"] >= 0
    assert f"of bundle {bundle_id}" in out
    assert "Note: the server answered with" not in out


def test_a_server_that_dies_is_counted_and_not_averaged(
    served: Served, repository: Path, tmp_path: Path
) -> None:
    report = tmp_path / "r.json"
    arguments = ("--concurrency", "4", "--warm-up-s", "0", "--duration-s", "6")
    command = [BIN / "mmsr-bench", "server", served.target, "--repository", repository]
    process = subprocess.Popen(
        [str(part) for part in (*command, *arguments, "--json", report)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for_requests(served)
        served.process.kill()
        out, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0
    (run,) = json.loads(report.read_text())["runs"]
    assert run["answered"] > 0
    assert run["errors"]["UNAVAILABLE"] > 0
    assert run["requests"] == run["answered"] + sum(run["errors"].values())
    assert run["max_latency_ms"] < 5000  # the deadline of a call: a lost one is no latency
    assert "x UNAVAILABLE, first: " in out


def wait_for_requests(served: Served) -> None:
    """Return once the server has worked for a while: its CPU time grows with requests only."""
    stat = Path(f"/proc/{served.process.pid}/stat")

    def ticks() -> int:
        fields = stat.read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before, deadline_s = ticks(), time.monotonic() + PATIENCE_S
    while ticks() < before + 30:
        assert time.monotonic() < deadline_s, "no request reached the server"
        threading.Event().wait(0.05)


def test_the_runner_alone_is_measured_by_batch_size(repository: Path, tmp_path: Path) -> None:
    flags = ("--batch", "1,16", "--duration-s", "0.5", "--threads", "1")
    out, report = measure(tmp_path / "r.json", "engine", "--repository", repository, *flags)
    one, sixteen = report["runs"]
    assert report["length"] == SIZES.max_length
    assert report["items"] == SIZES.items
    assert sixteen["requests_per_s"] > one["requests_per_s"]
    assert "requests/s" in out


def test_a_port_without_a_server_is_one_line(repository: Path) -> None:
    done = bench("server", "127.0.0.1:1", "--repository", repository, "--duration-s", "1")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: no server answers at 127.0.0.1:1 within 10 s")
    assert len(done.stderr.splitlines()) == 1
