"""`mmsr-bench retrain`, without its flags: from the end of a training to the first new answer.

Runs `mmsr-export` on a finished run and waits until the server answers with the new bundle, by
itself or after a command that restarts it. What each stage takes is from the clock of this machine:
the run's last checkpoint, the export's own stages, the label's move, the first answer.
"""

import asyncio
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmsr.bundle.manifest import load_manifest
from mmsr.bundle.repository import Repository
from mmsr.engine.bench.histories import encode_requests, load_histories
from mmsr.engine.bench.machine import describe_environment
from mmsr.engine.bench.plan import BenchError
from mmsr.engine.bench.report import RunnerReport
from mmsr.engine.bench.wire import answering_version

CHECKPOINTS = "checkpoints"
EXPORT = [str(Path(sys.executable).parent / "mmsr-export")]
POLL_S = 0.05  # between two questions to the server: the answer's time is known that well
STILL_THERE_S = 5.0  # for a server that is told to stop to let go of its port


@dataclass(frozen=True, kw_only=True)
class RetrainBench:
    """What to measure."""

    run: Path
    repository: Path
    label: str
    target: str
    data: Path | None
    export_flags: Sequence[str]
    restart: str | None  # a command after which the server answers with the label's bundle
    wait_s: float

    def __post_init__(self) -> None:
        if not (self.run / CHECKPOINTS).is_dir():
            raise BenchError(f"{self.run} has no {CHECKPOINTS}; expected a run of mmsr-train fit")
        if not 1 <= self.wait_s <= 24 * 3600:
            raise BenchError(f"wait-s is {self.wait_s:g}; expected 1 to 86400")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step on the way."""

    name: str
    seconds: float
    share: float  # of the way from the start of the export to the first new answer


def measure_retrain(bench: RetrainBench) -> RunnerReport:
    """Export, wait for the first new answer, and say where the time went."""
    environment = describe_environment()
    trained_at = newest_change(bench.run / CHECKPOINTS)
    began_at = time.time()
    exported = export(bench)
    exported_at = time.time()
    bundle_id = str(exported["bundle_id"])
    restart = None if bench.restart is None else start_command(bench.restart)
    restarted_at = time.time()
    bundle = Repository(bench.repository).path(bundle_id)
    request = encode_requests(load_histories(bundle)[:1], 1, seed=0)[0]
    live_at = wait_for_version(bench, bundle_id, request, restart)
    moved_at = label_moved_at(bench, bundle_id)
    stages = stages_of(exported["seconds"], began_at, exported_at, (restarted_at, live_at))
    return RunnerReport(
        scenario="retrain",
        environment=environment,
        bundle_id=bundle_id,
        runs=stages,
        interrupted=False,
        findings={
            "train_end": _iso(trained_at),
            "export_begin": _iso(began_at),
            "exported": load_manifest(bundle).provenance.get("exported"),
            "label_moved": _iso(moved_at),
            "first_answer": _iso(live_at),
            "waited_before_export_s": round(began_at - trained_at, 3),
            "export_to_answer_s": round(live_at - began_at, 3),
            "label_to_answer_s": round(live_at - moved_at, 3),
            "reused": exported.get("reused", []),
            "restart": bench.restart,
        },
    )


def newest_change(folder: Path) -> float:
    """Return when the newest file below the folder was written: the end of the training."""
    return max(path.stat().st_mtime for path in folder.rglob("*"))


def export(bench: RetrainBench) -> dict[str, Any]:
    """Run `mmsr-export`; return what its --json says. `BenchError` with its last line."""
    command = [
        *EXPORT,
        str(bench.run),
        "--repository",
        str(bench.repository),
        "--label",
        bench.label,
        "--json",
        *(() if bench.data is None else ("--data", str(bench.data))),
        *bench.export_flags,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BenchError(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise BenchError(f"mmsr-export ended with {done.returncode}: {said}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def start_command(line: str) -> "subprocess.Popen[bytes]":
    """Start a command of the user's; it may end, or be the server itself."""
    words = shlex.split(line)
    try:
        return subprocess.Popen(words, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise BenchError(f"restart {words[0]!r} cannot be run: {error.strerror}") from None


def wait_for_version(
    bench: RetrainBench,
    bundle_id: str,
    request: bytes,
    restart: "subprocess.Popen[bytes] | None",
) -> float:
    """Ask the server until it answers with the bundle; return when, by the wall clock."""
    end_s = time.monotonic() + bench.wait_s
    last = "no answer"
    while time.monotonic() < end_s:
        version = asyncio.run(answering_version(bench.target, request, within_s=STILL_THERE_S))
        now = time.time()
        if version == bundle_id:
            return now
        last = "no answer" if version is None else f"bundle {version}"
        if restart is not None and restart.poll():
            raise BenchError(f"the restart command ended with {restart.returncode}")
        time.sleep(POLL_S)
    how = "" if bench.restart is not None else "; does it watch the label? else give --restart"
    raise BenchError(
        f"{bench.target} did not answer with bundle {bundle_id} within {bench.wait_s:g} s "
        f"({last}){how}"
    )


def label_moved_at(bench: RetrainBench, bundle_id: str) -> float:
    """Return when the label was pointed at the bundle, as the repository says."""
    for move in reversed(Repository(bench.repository).history(bench.label)):
        if move.bundle_id == bundle_id:
            return datetime.fromisoformat(move.since).timestamp()
    raise BenchError(f"label {bench.label!r} does not name {bundle_id}")


def stages_of(
    export_seconds: dict[str, float],
    began_at: float,
    exported_at: float,
    live: tuple[float, float],
) -> list[Stage]:
    """Return the steps from the start of the export to the first new answer, in order."""
    restarted_at, live_at = live
    named = dict(export_seconds)
    others_s = exported_at - began_at - sum(named.values())
    steps = {
        **{f"export: {name}": seconds for name, seconds in named.items()},
        "export: starting and ending": max(0.0, others_s),
        "starting the restart command": restarted_at - exported_at,
        "until the first new answer": live_at - restarted_at,
    }
    whole_s = live_at - began_at
    return [
        Stage(name=name, seconds=round(seconds, 3), share=seconds / whole_s if whole_s else 0.0)
        for name, seconds in steps.items()
    ]


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
