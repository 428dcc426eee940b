"""The scenarios with real generator processes against a real server: short, and whole."""

import json
import shlex
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from support.answering_server import Behaviour, serve_in_thread
from support.tiny_bundle import Sizes, publish

from mmsr.bundle.repository import Repository
from mmsr.engine.bench import ceilings
from mmsr.engine.bench.ceilings import Ceilings, echo_server, measure_ceilings
from mmsr.engine.bench.cli import main
from mmsr.engine.bench.echo import KINDS
from mmsr.engine.bench.overload_bench import OverloadBench, measure_overload
from mmsr.engine.bench.plan import (
    REGRESSION_EXIT_CODE,
    VOID_EXIT_CODE,
    BenchError,
    RunPlan,
    Traffic,
    Window,
)
from mmsr.engine.bench.processes import find_server
from mmsr.engine.bench.reload_bench import ReloadBench, measure_reload
from mmsr.engine.bench.scenario_tables import print_overload, print_reload, print_slo
from mmsr.engine.bench.server_bench import Subject, open_load
from mmsr.engine.bench.slo_bench import SloBench, measure_slo

SHORT = Window(warm_up_s=0.1, duration_s=0.5)


def subject_of(target: str, repository: Repository) -> Subject:
    return Subject(target=target, repository=repository.root, label="stable", k=3)


def test_a_rate_is_found_and_confirmed(target: str, repository: Repository) -> None:
    """A limit that any machine holds, so that the search ends at the capacity."""
    traffic = Traffic(slo_ms=60_000)
    bench = SloBench(
        subject=subject_of(target, repository),
        traffic=traffic,
        window=SHORT,
        probe_s=0.5,
        ceilings=False,
    )
    report = measure_slo(bench)
    found = report.findings
    assert len(report.runs) >= found["first_confirming_run"] + 1
    out = StringIO()
    print_slo(Console(file=out, width=80), report)
    assert "of a closed loop" in out.getvalue() or "No rate was found" in out.getvalue()
    if found["rate_per_s"] is not None:  # a busy machine's generator may be too late for any
        assert found["rate_per_s"] in [run.plan.rate_per_s for run in report.runs]


def test_overload_counts_refusals_apart_and_their_time(
    target: str, behaviour: Behaviour, repository: Repository
) -> None:
    behaviour.fail_every = 2
    bench = OverloadBench(
        subject=subject_of(target, repository),
        factors=[0.5, 1.0],
        traffic=Traffic(slo_ms=10_000),
        window=replace(SHORT, deadline_ms=10_000),
        capacity_per_s=120.0,
        ceilings=False,
    )
    report = measure_overload(bench)
    assert [one["factor"] for one in report.findings["loaded"]] == [0.5, 1.0]
    full = report.findings["loaded"][1]
    assert full["refused"] == pytest.approx(0.5, abs=0.1)
    assert full["failed"] == 0.0
    assert full["refusal_ms"]["p50"] > 0
    assert report.findings["recovery_s"] is None  # every second request is still refused
    out = StringIO()
    print_overload(Console(file=out, width=80), report)
    assert "no second was good again" in out.getvalue()
    assert "…" not in out.getvalue()


@pytest.fixture
def following(tmp_path: Path) -> tuple[Repository, list[str], Behaviour]:
    """A server that answers with the label's bundle at once, and two bundles."""
    root = tmp_path / "two"
    ids = [publish(root, Sizes(items=30, probes=3), seed=seed).folder.name for seed in (0, 1)]
    repository = Repository(root)
    return repository, ids, Behaviour(version_of=lambda: repository.resolve("stable").name)


def reload_plan() -> RunPlan:
    return RunPlan(rate_per_s=60, window=Window(warm_up_s=0.2, duration_s=4.5))


def test_switches_of_the_label_are_seen_in_the_answers(
    following: tuple[Repository, list[str], Behaviour],
) -> None:
    repository, ids, behaviour = following
    with serve_in_thread(behaviour) as target:
        bench = ReloadBench(
            subject=subject_of(target, repository),
            plan=reload_plan(),
            every_s=1.5,
            between=ids,
            hook=None,
            ceilings=False,
        )
        report = measure_reload(bench)
    found = report.findings
    assert len(found["asked_s"]) >= 2
    assert len(found["changes_s"]) == len(found["asked_s"])
    for asked_s, change_s in zip(found["asked_s"], found["changes_s"], strict=True):
        assert asked_s - 0.1 < change_s < asked_s + 1.0
    run = report.runs[0]
    assert found["near"]["requests"] + found["far"]["requests"] == run.requests
    assert found["memory_mib"]["most"] >= found["memory_mib"]["first"] > 10
    out = StringIO()
    print_reload(Console(file=out, width=80), report)
    assert "switches seen in the answers" in out.getvalue()
    assert "…" not in out.getvalue()


def test_a_hook_may_make_the_server_switch(
    following: tuple[Repository, list[str], Behaviour],
) -> None:
    repository, ids, behaviour = following
    code = (
        "from pathlib import Path; from mmsr.bundle.repository import Repository; "
        f"Repository(Path({str(repository.root)!r})).promote({ids[0]!r}, 'stable')"
    )
    with serve_in_thread(behaviour) as target:
        bench = ReloadBench(
            subject=subject_of(target, repository),
            plan=reload_plan(),
            every_s=2.0,
            between=[],
            hook=shlex.join([sys.executable, "-c", code]),
            ceilings=False,
        )
        report = measure_reload(bench)
        assert len(report.findings["changes_s"]) == 1  # the second changes nothing
        assert report.findings["void"] is None
        unmoved = measure_reload(bench)  # the label is there already
        assert unmoved.findings["changes_s"] == []
        assert unmoved.void
        out = StringIO()
        print_reload(Console(file=out, width=80), unmoved)
        assert "VOID, no answer showed a switch" in out.getvalue()
        failing = replace(bench, hook=shlex.join([sys.executable, "-c", "raise SystemExit('no')"]))
        with pytest.raises(BenchError, match="the hook ended with 1: no"):
            measure_reload(failing)


@pytest.mark.parametrize("kind", KINDS)
def test_an_echo_answers_as_the_server_does(kind: str, repository: Repository) -> None:
    with echo_server(kind, 3) as found:
        assert found is not None
        target, pid = found
        assert find_server(target) == pid
        load = open_load(subject_of(target, repository), seed=0)
        run = load.run(RunPlan(concurrency=2, window=SHORT))
    assert run.answered == run.requests > 10
    assert run.model_versions == ["echo"]
    assert run.process is not None


def test_every_ceiling_is_measured_and_shared_out(
    target: str, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("ECHO_S", 0.4), ("ECHO_WARM_UP_S", 0.1), ("RUNNER_S", 0.1)):
        monkeypatch.setattr(ceilings, name, seconds)
    load = open_load(subject_of(target, repository), seed=0)
    run = load.run(RunPlan(concurrency=1, window=SHORT))
    found = measure_ceilings(load.bundle, load.requests, 3, run.plan)
    assert set(found.echo_per_s) == set(KINDS)
    assert found.runner > found.runner_per_s["1"]
    assert found.table_bytes == 60 * 16 * 4
    shares = found.shares(run)
    assert shares["echo"] == pytest.approx(run.answered_per_s / max(found.echo_per_s.values()))
    assert shares["memory"] == pytest.approx(run.answered_per_s / found.memory_per_s(2.0))
    assert isinstance(found, Ceilings)


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["mmsr-bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def test_two_live_servers_are_compared_in_turn(
    target: str, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B answers half of the requests: fewer good answers, surely."""
    files = ("--json", tmp_path / "c.json", "--html", tmp_path / "c.html")
    loads = ("--concurrency", "2", "--duration-s", "1.2", "--warm-up-s", "0.1", "--rounds", "2")
    common = ("--repository", repository.root, *loads)
    with serve_in_thread(Behaviour(fail_every=2, stall_every_s=0.4, stall_s=0.3)) as worse:
        code = run_main(monkeypatch, "compare", "--live", target, worse, *common, *files)
    assert code == REGRESSION_EXIT_CODE
    report = json.loads((tmp_path / "c.json").read_text())
    goodput = report["runs"][0]["ratios"][0]
    assert goodput["metric"] == "good/s"
    assert goodput["regression"]
    assert goodput["ratio"] < 0.8
    assert "".join(report["order"]) == "ABBA"
    assert len(report["load_runs"]) == 4
    failing = [bool(run["refusals"]) for run in report["load_runs"]]
    assert failing == [False, True, True, False]  # as they are said to be
    seeds = [run["plan"]["window"]["seed"] for run in report["load_runs"]]
    assert seeds == [0, 0, 1, 1]  # each pair meets the same arrivals, the next pair others
    assert "REGRESSION" in (tmp_path / "c.html").read_text()


def test_a_report_compared_with_itself_is_no_regression(
    target: str, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.json"
    loads = ("--rate", "100", "--duration-s", "2.2", "--warm-up-s", "0.1", "--no-ceilings")
    page = ("--html", tmp_path / "r.html")
    common = ("--repository", repository.root)
    code = run_main(
        monkeypatch,
        "server",
        target,
        *(*common, *loads, "--generators", 2, "--headline", "--json", path, *page),
    )
    assert code in (0, VOID_EXIT_CODE)
    assert "Second by second" in (tmp_path / "r.html").read_text()
    [run] = json.loads(path.read_text())["runs"]
    assert run["plan"]["traffic"]["headline"]
    assert run["plan"]["traffic"]["generators"] == 2
    assert run["latency_ms"]["p90"] is None  # 220 requests are enough for one, and for no headline
    if code == 0:
        assert run_main(monkeypatch, "compare", path, path) == 0
