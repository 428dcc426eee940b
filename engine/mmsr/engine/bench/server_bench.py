"""`mmsr-bench server`, without its flags: histories in, one report out.

What the other scenarios of a running server share is here too: `Load`, which sends one plan.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmsr.bundle.repository import Repository
from mmsr.engine.bench.ceilings import Ceilings, measure_ceilings
from mmsr.engine.bench.histories import encode_requests, load_histories
from mmsr.engine.bench.launch import Watch, launch
from mmsr.engine.bench.machine import describe_environment
from mmsr.engine.bench.plan import BenchError, RunPlan
from mmsr.engine.bench.processes import find_server, read_process
from mmsr.engine.bench.report import ServerReport
from mmsr.engine.bench.samples import Samples
from mmsr.engine.bench.summary import RunSummary, summarise
from mmsr.engine.config import Limits


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Which server is measured, with whose histories."""

    target: str
    repository: Path
    label: str
    k: int
    server_pid: int | None = None  # None: looked for

    def __post_init__(self) -> None:
        most = Limits().k
        if not 1 <= self.k <= most:
            raise BenchError(f"k is {self.k}; expected 1 to {most}")
        if self.server_pid is not None and read_process(self.server_pid) is None:
            raise BenchError(f"server-pid is {self.server_pid}; there is no such process here")


@dataclass(frozen=True, kw_only=True)
class ServerBench:
    """What to measure."""

    subject: Subject
    plans: Sequence[RunPlan]
    ceilings: bool = True

    def __post_init__(self) -> None:
        if not self.plans:
            raise BenchError("nothing to measure: no concurrency and no rate given")


@dataclass
class Load:
    """Sends plans to one server and keeps what came of them."""

    subject: Subject
    bundle: Path
    requests: list[bytes]
    runs: list[RunSummary] = field(default_factory=list)
    samples: Samples | None = None  # of the last run

    def run(self, plan: RunPlan, watch: Watch | None = None) -> RunSummary:
        """Run one plan; an interrupt is raised after what was measured has been kept."""
        watch = watch or Watch()
        watch.pid = self.subject.server_pid or find_server(self.subject.target)
        result = launch(self.subject.target, plan, self.requests, watch)
        if result.found is not None:
            self.samples = result.found[1]
            self.runs.append(summarise(plan, *result.found, result.server, result.start_s))
        if result.interrupted:
            raise KeyboardInterrupt
        return self.runs[-1]


def open_load(subject: Subject, seed: int) -> Load:
    """Read the bundle and encode its histories."""
    bundle = Repository(subject.repository).resolve(subject.label)
    requests = encode_requests(load_histories(bundle), subject.k, seed)
    return Load(subject, bundle, requests)


def measure_server(bench: ServerBench) -> ServerReport:
    """Run every plan, one after the other; an interrupt keeps what was measured so far.

    Raises `BenchError` if not a single request was answered.
    """
    load = open_load(bench.subject, bench.plans[0].window.seed)

    def run_all() -> dict[str, Any]:
        for plan in bench.plans:
            load.run(plan)
        return {}

    return measured_report("server", load, run_all, ceilings=bench.ceilings)


class Interrupted(KeyboardInterrupt):
    """A scenario was ended early and has findings all the same."""

    def __init__(self, findings: dict[str, Any]) -> None:
        super().__init__()
        self.findings = findings


def measured_report(
    scenario: str, load: Load, measure: Callable[[], dict[str, Any]], *, ceilings: bool
) -> ServerReport:
    """Measure a scenario, which returns its findings, and then the ceilings.

    An interrupt keeps what was measured so far; `BenchError` if nothing was answered.
    """
    environment = describe_environment()
    findings: dict[str, Any] = {}
    found: Ceilings | None = None
    interrupted = False
    try:
        findings = measure()
        require_answers(load)
        if ceilings:
            found = measure_ceilings(load.bundle, load.requests, load.subject.k, load.runs[0].plan)
    except KeyboardInterrupt as stop:
        interrupted = True
        findings = stop.findings if isinstance(stop, Interrupted) else findings
        require_answers(load)
    return ServerReport(
        scenario=scenario,
        environment=environment,
        target=load.subject.target,
        bundle_id=load.bundle.name,
        label=load.subject.label,
        k=load.subject.k,
        histories=len(load.requests),
        runs=load.runs,
        interrupted=interrupted,
        ceilings=found,
        findings=findings,
    )


def require_answers(load: Load) -> None:
    """Raise `BenchError` if nothing was answered."""
    runs, target = load.runs, load.subject.target
    if not runs:
        raise BenchError("interrupted before anything was measured")
    if any(run.answered for run in runs):
        return
    failures = {
        status: (count, run.first_details.get(status, ""))
        for run in runs
        for status, count in (run.errors | run.refusals).items()
    }
    said = "; ".join(
        f"{count} x {status}: {details}" for status, (count, details) in failures.items()
    )
    raise BenchError(f"{target} answered none of the requests ({said or 'none was sent'})")
