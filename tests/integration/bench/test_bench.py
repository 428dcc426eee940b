"""`mmsr-bench` as a process against `mmsr-serve` as a process, over a real socket."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.serving import PATIENCE_S, Served, serving
from support.tiny_bundle import Sizes, publish

from mmsr.bundle.repository import Repository
from mmsr.engine.bench.plan import VOID_EXIT_CODE

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
    assert done.returncode in (0, VOID_EXIT_CODE), done.stderr  # the machine may be busy
    found: dict[str, Any] = json.loads(report.read_text())
    return done.stdout, found


def test_both_loops_measure_the_real_server(
    served: Served, repository: Path, tmp_path: Path
) -> None:
    loads = ("--concurrency", "1,16", "--rate", "50", "--duration-s", "2", "--warm-up-s", "0.5")
    common = ("--repository", repository, "--k", "10", "--no-ceilings", "--generators", "2")
    out, report = measure(tmp_path / "r.json", "server", served.target, *common, *loads)
    bundle_id = Repository(repository).resolve("stable").name
    assert report["histories"] == SIZES.probes
    assert len(report["runs"]) == 3
    for run in report["runs"]:
        assert run["errors"] == {}
        assert run["model_versions"] == [bundle_id]
        assert run["fallbacks"] == 0
        assert run["answered"] == run["requests"] > 0
        assert run["refusals"] == {}
        assert run["latency_ms"]["p50"] > run["server"]["compute_us"] / 1e3 > 0
        assert run["process"]["cpu_us"] > run["server"]["compute_us"] / run["server"]["batch_size"]
        assert run["process"]["memory_mib"][0][1] > 20
        assert sum(block["answered"] for block in run["blocks"]) == run["answered"]
        assert run["measured_s"] == pytest.approx(2.0, abs=0.5)  # a busy machine ends late
    alone, sixteen, opened = report["runs"]
    assert alone["server"]["batch_size"] == 1.0
    assert sixteen["server"]["batch_size"] > 1.0  # requests that wait together ride together
    assert opened["lag_ms"]["p50"] >= 0
    assert f"of bundle {bundle_id}" in out
    assert "Note: the server answered with" not in out


def test_the_runner_alone_is_measured_by_batch_size(repository: Path, tmp_path: Path) -> None:
    flags = ("--batch", "1,16", "--duration-s", "0.5", "--threads", "1")
    out, report = measure(tmp_path / "r.json", "engine", "--repository", repository, *flags)
    one, sixteen = report["runs"]
    assert one["length"] == SIZES.max_length
    assert one["items"] == SIZES.items
    assert sixteen["requests_per_s"] > one["requests_per_s"]
    assert "requests/s" in out


def test_a_port_without_a_server_is_one_line(repository: Path) -> None:
    done = bench("server", "127.0.0.1:1", "--repository", repository, "--duration-s", "1")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: no server answers at 127.0.0.1:1 within 10 s")
    assert len(done.stderr.splitlines()) == 1


def test_a_run_that_does_not_count_has_its_own_exit_code(served: Served, repository: Path) -> None:
    """More requests than can be sent: some are given up, which voids the run."""
    loads = ("--rate", "100000", "--warm-up-s", "0", "--duration-s", "0.2")
    done = bench("server", served.target, "--repository", repository, *loads)
    assert done.returncode == VOID_EXIT_CODE, done.stderr
