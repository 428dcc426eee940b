"""`mmsr-bench server`: a real generator process against a real server."""

import json
import select
import signal
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from support.answering_server import DEADLINE_S, MODEL_VERSION, Behaviour
from support.tiny_bundle import Twin

from mmsr.bundle.errors import BundleError
from mmsr.bundle.repository import Repository
from mmsr.engine.bench import launch, report, tables
from mmsr.engine.bench.plan import BenchError, RunPlan, Window
from mmsr.engine.bench.server_bench import ServerBench, Subject, measure_server
from mmsr.v1.recommender_pb2 import RecommendRequest

SHORT = Window(warm_up_s=0.1, duration_s=0.4)


def bench_of(target: str, repository: Repository, *plans: RunPlan, k: int = 3) -> ServerBench:
    subject = Subject(target=target, repository=repository.root, label="stable", k=k)
    return ServerBench(subject=subject, plans=list(plans), ceilings=False)


def printed(server_report: report.ServerReport) -> str:
    out = StringIO()
    tables.print_server(Console(file=out, width=80), server_report)
    return out.getvalue()


def test_a_report_of_both_loops(
    target: str, behaviour: Behaviour, repository: Repository, twin: Twin
) -> None:
    behaviour.fail_every = 10
    plans = [RunPlan(concurrency=2, window=SHORT), RunPlan(rate_per_s=100, window=SHORT)]
    made = measure_server(bench_of(target, repository, *plans))

    closed, opened = made.runs
    assert closed.answered > 20
    assert closed.refusals.keys() == opened.refusals.keys() == {"RESOURCE_EXHAUSTED"}
    assert closed.errors == opened.errors == {}
    assert opened.lag_ms is not None
    inside = closed.server
    assert (inside.batch_size, inside.queue_us, inside.compute_us) == (2.0, 100.0, 200.0)
    sent = {tuple(RecommendRequest.FromString(r).history) for r in behaviour.requests}
    assert len(sent) == 5  # each history of the probe set
    assert {item_id for history in sent for item_id in history} <= set(twin.ids)

    text = printed(made)
    assert "…" not in text  # nothing is cut on a terminal of 80 columns
    assert "RESOURCE_EXHAUSTED, first: the queue is full" in text
    assert "Warm-up left out: the first 0.1 s of each run" in text
    assert f"the server answered with {MODEL_VERSION}" in text  # not the repository's bundle
    # Of a busy machine's generator the run is void, and says so in place of "open".
    rows = [line.split() for line in text.splitlines() if "100/s" in line.split()[1:2]]
    assert rows[0][6] == tables.NOT_ENOUGH  # 40 samples are too few for p99

    path = repository.root / "report.json"
    report.write_report(path, made)
    written = json.loads(path.read_text())
    assert written["scenario"] == "server"
    assert written["bundle_id"] == repository.resolve("stable").name
    assert written["runs"][1]["plan"]["rate_per_s"] == 100
    assert written["runs"][1]["latency_ms"]["p99"] is None
    assert written["environment"]["versions"]["grpcio"]


def test_no_answer_at_all_is_one_line(
    target: str, behaviour: Behaviour, repository: Repository
) -> None:
    behaviour.fail_every = 1
    plan = RunPlan(concurrency=1, window=SHORT)
    expected = r"answered none of the requests \(\d+ x RESOURCE_EXHAUSTED: the queue is full\)"
    with pytest.raises(BenchError, match=expected):
        measure_server(bench_of(target, repository, plan))


@pytest.mark.parametrize("k", [0, 1001])
def test_k_out_of_range_is_one_line(repository: Repository, k: int) -> None:
    plan = RunPlan(concurrency=1, window=SHORT)
    with pytest.raises(BenchError, match=f"k is {k}; expected 1 to 1000"):
        bench_of("127.0.0.1:1", repository, plan, k=k)


def test_an_unknown_label_is_one_line(repository: Repository) -> None:
    bench = bench_of("127.0.0.1:1", repository, RunPlan(concurrency=1, window=SHORT))
    bench = replace(bench, subject=replace(bench.subject, label="canary"))
    with pytest.raises(BundleError, match="no label 'canary'"):
        measure_server(bench)


def test_what_the_generator_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; sys.exit('no server answers at h:1')"
    monkeypatch.setattr(launch, "GENERATOR", [sys.executable, "-c", code])
    with pytest.raises(BenchError, match=r"^no server answers at h:1$"):
        launch.launch("h:1", RunPlan(concurrency=1, window=SHORT), [b"r"])


def test_a_generator_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import threading; threading.Event().wait()"
    monkeypatch.setattr(launch, "GENERATOR", [sys.executable, "-c", code])
    monkeypatch.setattr(launch, "START_UP_S", 0.0)
    window = Window(warm_up_s=0, duration_s=0.1, deadline_ms=1)
    with pytest.raises(BenchError, match="did not connect within"):
        launch.launch("h:1", RunPlan(concurrency=1, window=window), [b"r"])


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_prints_what_was_measured(
    target: str, behaviour: Behaviour, repository: Repository, tmp_path: Path, told: signal.Signals
) -> None:
    # A job in the background of a script ignores SIGINT, and so would its children.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "sys.argv[0] = 'mmsr-bench'; from mmsr.engine.bench.cli import main; main()"
    flags = ["--concurrency", "1,2", "--duration-s", "3600", "--warm-up-s", "0"]
    command = [sys.executable, "-c", code, "server", target, "--repository", str(repository.root)]
    json_file = tmp_path / "report.json"
    with subprocess.Popen(
        [*command, *flags, "--json", str(json_file)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert behaviour.answered.wait(DEADLINE_S)
            process.send_signal(told)
            out, _ = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Interrupted: this is what was measured so far." in out
    (run,) = json.loads(json_file.read_text())["runs"]  # the second never began
    assert run["interrupted"]
    assert run["answered"] > 0
    assert run["measured_s"] < DEADLINE_S


PARENT = """
import os, subprocess, sys
code = "import sys, threading; from mmsr.engine.bench.interrupt import end_with"
code += "; end_with(int(sys.argv[1])); print('ready', flush=True); threading.Event().wait()"
child = subprocess.Popen([sys.executable, "-c", code, str(os.getpid())])
child.wait()
"""


def test_a_generator_ends_with_its_parent_however_that_ends() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    parent.wait()
    # The child holds the other end of the pipe: it closes when the child has ended.
    assert select.select([parent.stdout], [], [], DEADLINE_S)[0]
    assert parent.stdout.read() == ""
    parent.stdout.close()


def test_a_generator_whose_parent_has_gone_ends_at_once() -> None:
    code = "from mmsr.engine.bench.interrupt import end_with; end_with(1 << 30)"
    done = subprocess.run([sys.executable, "-c", code], timeout=DEADLINE_S, check=False)
    assert done.returncode == -signal.SIGTERM
