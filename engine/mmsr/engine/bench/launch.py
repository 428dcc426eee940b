"""Runs one plan in a generator process, with a progress bar here. Bounded in time always."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mmsr.engine.bench.exchange import Outcome, read_outcome, write_order
from mmsr.engine.bench.plan import BenchError, RunPlan
from mmsr.engine.bench.progress import progress_bar
from mmsr.engine.bench.samples import Samples

START_UP_S = 60.0  # a generous bound for starting Python and connecting on a busy machine
TICK_S = 0.25  # of the progress bar; rarer wake-ups disturb a small machine less
GENERATOR = [sys.executable, "-m", "mmsr.engine.bench.generator"]


@dataclass(frozen=True, kw_only=True)
class LaunchResult:
    """What one generator process brought back; None where it was interrupted before it began."""

    found: tuple[Outcome, Samples] | None
    interrupted: bool


def launch(target: str, plan: RunPlan, requests: list[bytes]) -> LaunchResult:
    """Run `plan` against `target`; an interrupt ends it early and keeps what there is.

    Raises `BenchError` with the generator's own line if it could not run.
    """
    with tempfile.TemporaryDirectory(prefix="mmsr-bench-") as name:
        folder = Path(name)
        write_order(folder, target, plan, requests)
        with (folder / "stderr.txt").open("w") as stderr:
            process = subprocess.Popen(
                [*GENERATOR, name, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )
            interrupted = _wait(process, plan)
        found = read_outcome(folder)
        if found is None and not interrupted:
            said = (folder / "stderr.txt").read_text().strip()
            raise BenchError(said or f"the generator process ended with {process.returncode}")
        return LaunchResult(found=found, interrupted=interrupted)


def _wait(process: subprocess.Popen[bytes], plan: RunPlan) -> bool:
    """Wait for the generator; return whether an interrupt ended it early."""
    try:
        with progress_bar(plan.name, plan.window.total_s) as tick:
            limit_s = START_UP_S + plan.window.total_s + plan.window.deadline_ms / 1000
            start_s = time.monotonic()
            while time.monotonic() < start_s + limit_s:
                try:
                    process.wait(TICK_S)
                    return False
                except subprocess.TimeoutExpired:
                    tick(time.monotonic() - start_s)
            raise BenchError(f"the generator process did not end within {limit_s:.0f} s")
    except KeyboardInterrupt:
        # A terminal has sent it the interrupt already; a second one changes nothing.
        process.send_signal(signal.SIGINT)
        _reap(process, START_UP_S)
        return True
    finally:
        _reap(process, 0.0)


def _reap(process: subprocess.Popen[bytes], grace_s: float) -> None:
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
