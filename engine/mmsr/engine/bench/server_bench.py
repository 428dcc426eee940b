"""`mmsr-bench server`, without its flags: histories in, one report out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmsr.bundle.repository import Repository
from mmsr.engine.bench.histories import encode_requests, load_histories
from mmsr.engine.bench.launch import launch
from mmsr.engine.bench.machine import describe_environment
from mmsr.engine.bench.plan import BenchError, RunPlan
from mmsr.engine.bench.report import ServerReport
from mmsr.engine.bench.summary import RunSummary, summarise
from mmsr.engine.config import Limits


@dataclass(frozen=True, kw_only=True)
class ServerBench:
    """What to measure."""

    target: str
    repository: Path
    label: str
    k: int
    plans: Sequence[RunPlan]

    def __post_init__(self) -> None:
        most = Limits().k
        if not 1 <= self.k <= most:
            raise BenchError(f"k is {self.k}; expected 1 to {most}")
        if not self.plans:
            raise BenchError("nothing to measure: no concurrency and no rate given")


def measure_server(bench: ServerBench) -> ServerReport:
    """Run every plan, one after the other; an interrupt keeps what was measured so far.

    Raises `BenchError` if not a single request was answered.
    """
    environment = describe_environment()
    bundle = Repository(bench.repository).resolve(bench.label)
    seed = bench.plans[0].window.seed
    requests = encode_requests(load_histories(bundle), bench.k, seed)
    runs, interrupted = _run_all(bench, requests)
    _require_answers(bench.target, runs)
    return ServerReport(
        environment=environment,
        target=bench.target,
        bundle_id=bundle.name,
        label=bench.label,
        k=bench.k,
        histories=len(requests),
        runs=runs,
        interrupted=interrupted,
    )


def _run_all(bench: ServerBench, requests: list[bytes]) -> tuple[list[RunSummary], bool]:
    runs: list[RunSummary] = []
    for plan in bench.plans:
        result = launch(bench.target, plan, requests)
        if result.found is not None:
            runs.append(summarise(plan, *result.found))
        if result.interrupted:
            return runs, True
    return runs, False


def _require_answers(target: str, runs: list[RunSummary]) -> None:
    if not runs:
        raise BenchError("interrupted before anything was measured")
    if any(run.answered for run in runs):
        return
    errors = {s: (n, run.first_details.get(s, "")) for run in runs for s, n in run.errors.items()}
    said = "; ".join(
        f"{count} x {status}: {details}" for status, (count, details) in errors.items()
    )
    raise BenchError(f"{target} answered none of the requests ({said or 'none was sent'})")
