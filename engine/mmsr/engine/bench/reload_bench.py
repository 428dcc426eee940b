"""`mmsr-bench reload`, without its flags: what clients feel while the server takes another bundle.

An open loop goes on while the repository's label is moved to and fro, or a command of the user's is
run. When a switch happened is read off the answers: another `model_version`. The seconds around
all switches are pooled and set beside the rest of the run.
"""

import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mmsr.bundle.repository import Repository
from mmsr.engine.bench.latency import percentiles
from mmsr.engine.bench.launch import Watch
from mmsr.engine.bench.plan import BenchError, RunPlan
from mmsr.engine.bench.report import ServerReport
from mmsr.engine.bench.samples import OK, Samples
from mmsr.engine.bench.server_bench import Subject, measured_report, open_load
from mmsr.engine.bench.summary import Percentiles, RunSummary

AROUND_S = 1.0  # before and after each switch
NONE_SEEN = (
    "no answer showed a switch, so nothing is known of reloads; does the server follow the label, "
    "and is --duration-s long enough for it?"
)


@dataclass(frozen=True, kw_only=True)
class ReloadBench:
    """What to measure."""

    subject: Subject
    plan: RunPlan  # an open loop
    every_s: float
    between: Sequence[str]  # bundles that the label names in turn; or
    hook: str | None  # a command that makes the server switch
    ceilings: bool = True

    def __post_init__(self) -> None:
        if (len(self.between) == 2) == (self.hook is not None):
            raise BenchError(
                "a reload needs either two bundles (--between A --between B) or a --hook"
            )
        if not 0.5 <= self.every_s < self.plan.window.duration_s:
            raise BenchError(
                f"every-s is {self.every_s:g}; expected 0.5 to less than the duration, "
                f"{self.plan.window.duration_s:g}"
            )


@dataclass
class Switches:
    """Asks for a switch every so often; called while the run goes on."""

    ask: Callable[[int], None]  # told the number of the switch, from 0
    every_s: float
    warm_up_s: float
    asked_s: list[float] = field(default_factory=list)  # since the warm-up's end

    def __call__(self, passed_s: float) -> None:
        """Ask, if it is time."""
        now_s = passed_s - self.warm_up_s
        if now_s >= self.every_s * (len(self.asked_s) + 1):
            self.ask(len(self.asked_s))
            self.asked_s.append(round(now_s, 3))


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """The requests of some part of a run."""

    requests: int
    failed: int
    seconds: float
    latency_ms: Percentiles
    max_ms: float | None


def measure_reload(bench: ReloadBench) -> ServerReport:
    """Measure one run with its switches."""
    load = open_load(bench.subject, bench.plan.window.seed)
    switches = Switches(_asker(bench), bench.every_s, bench.plan.window.warm_up_s)

    def measure() -> dict[str, Any]:
        run = load.run(bench.plan, Watch(during=switches))
        assert load.samples is not None
        return reload_findings(load.samples, run, switches.asked_s)

    return measured_report("reload", load, measure, ceilings=bench.ceilings)


def _asker(bench: ReloadBench) -> Callable[[int], None]:
    if bench.hook is not None:
        words = shlex.split(bench.hook)
        return lambda number: _run_hook(words)
    repository = Repository(bench.subject.repository)
    label = bench.subject.label
    names = [repository.find(name).name for name in bench.between]
    if names[0] == repository.resolve(label).name:
        names.reverse()  # the first switch is to be one
    return lambda number: repository.promote(names[number % 2], label)


def _run_hook(words: Sequence[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise BenchError(f"the hook ended with {done.returncode}: {said}")


def reload_findings(samples: Samples, run: RunSummary, asked_s: list[float]) -> dict[str, Any]:
    """Return the pooled windows, the rest, and the memory before, at most and after."""
    warm_up_s = run.plan.window.warm_up_s
    counted = samples.pick(samples.intended_s_R >= warm_up_s)
    near_R = near(counted.intended_s_R - warm_up_s, run.version_changes_s)
    near_s = covered_s(run.version_changes_s, run.measured_s)
    memory = [mib for _, mib in run.process.memory_mib] if run.process else []
    return {
        "asked_s": asked_s,
        "changes_s": run.version_changes_s,
        "void": None if run.version_changes_s else NONE_SEEN,
        "near": asdict(pooled(counted.pick(near_R), near_s)),
        "far": asdict(pooled(counted.pick(~near_R), run.measured_s - near_s)),
        "memory_mib": {"first": memory[0], "most": max(memory), "last": memory[-1]}
        if memory
        else None,
    }


def near(times_s_R: npt.NDArray[np.float64], changes_s: Sequence[float]) -> npt.NDArray[np.bool_]:
    """Return which times [R] are within `AROUND_S` of a change."""
    near_R = np.zeros(len(times_s_R), np.bool_)
    for change_s in changes_s:
        near_R |= np.abs(times_s_R - change_s) <= AROUND_S
    return near_R


def covered_s(changes_s: Sequence[float], measured_s: float) -> float:
    """Return how many seconds of the run are within `AROUND_S` of a change."""
    covered, end_s = 0.0, 0.0
    for change_s in sorted(changes_s):
        begin_s = max(end_s, change_s - AROUND_S)
        end_s = min(measured_s, change_s + AROUND_S)
        covered += max(0.0, end_s - begin_s)
    return covered


def pooled(samples: Samples, seconds: float) -> Pooled:
    """Return the numbers of some requests."""
    answered = samples.pick(samples.status_R == OK)
    latency_ms_R = (answered.done_s_R - answered.intended_s_R) * 1e3
    failed = len(samples) - len(answered)
    return Pooled(
        requests=len(samples),
        failed=failed,
        seconds=seconds,
        latency_ms=percentiles(latency_ms_R, failed),
        max_ms=float(latency_ms_R.max()) if len(latency_ms_R) else None,
    )
