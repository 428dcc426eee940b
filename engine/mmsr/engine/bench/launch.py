"""Runs one plan in generator processes, with a progress bar here. Bounded in time always."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mmsr.engine.bench.exchange import (
    Order,
    Outcome,
    all_ready,
    read_outcome,
    write_order,
    write_start,
)
from mmsr.engine.bench.plan import BenchError, RunPlan
from mmsr.engine.bench.processes import Reading, read_process
from mmsr.engine.bench.progress import progress_bar
from mmsr.engine.bench.samples import Samples

START_UP_S = 60.0  # a generous bound for starting Python and connecting on a busy machine
START_LEAD_S = 0.25  # from saying when to begin to beginning: the file must be on the disk by then
POLL_S = 0.02  # while the generators connect
TICK_S = 0.25  # of the progress bar; rarer wake-ups disturb a small machine less
GENERATOR = [sys.executable, "-m", "mmsr.engine.bench.generator"]

Generators = Sequence["subprocess.Popen[bytes]"]


@dataclass(frozen=True, kw_only=True)
class LaunchResult:
    """What the generators brought back; None where they were interrupted before they began."""

    found: tuple[Outcome, Samples] | None
    interrupted: bool
    start_s: float = 0.0  # of time.perf_counter: the samples' time 0
    server: Sequence[Reading] = ()  # of the server's process, from before the run to its end


@dataclass
class Watch:
    """Looks at the server's process while a run goes on, and lets a scenario act meanwhile."""

    pid: int | None = None
    # Called once, with the instant at which the run begins, shortly before it.
    began: Callable[[float], None] = lambda start_s: None
    # Called about four times a second with the time since the run's start.
    during: Callable[[float], None] = lambda passed_s: None
    readings: list[Reading] = field(default_factory=list)

    def look(self) -> None:
        """Note what the server has used so far."""
        reading = None if self.pid is None else read_process(self.pid)
        if reading is not None:
            self.readings.append(reading)


def launch(
    target: str, plan: RunPlan, requests: list[bytes], watch: Watch | None = None
) -> LaunchResult:
    """Run `plan` against `target`; an interrupt ends it early and keeps what there is.

    Raises `BenchError` with a generator's own line if it could not run.
    """
    watch = watch or Watch()
    processes = plan.traffic.generators
    with tempfile.TemporaryDirectory(prefix="mmsr-bench-") as name:
        folder = Path(name)
        write_order(folder, Order(target=target, plan=plan, requests=requests))
        with _generators(folder, processes) as generators:
            start_s, interrupted = _run(folder, generators, plan, watch)
        found = read_outcome(folder, processes)
        if found is None and not interrupted:
            codes = ", ".join(str(process.returncode) for process in generators)
            lines = (folder / "stderr.txt").read_text().strip().splitlines()
            said = "\n".join(dict.fromkeys(lines))  # each of them says the same
            raise BenchError(said or f"the generator ended with {codes}")
        return LaunchResult(
            found=found, interrupted=interrupted, start_s=start_s, server=watch.readings
        )


@contextmanager
def _generators(folder: Path, processes: int) -> Iterator[Generators]:
    """Start the generators; none is left behind, whatever happens."""
    started: list[subprocess.Popen[bytes]] = []
    with (folder / "stderr.txt").open("w") as stderr:
        try:
            for rank in range(processes):
                command = [*GENERATOR, str(folder), str(rank), str(os.getpid())]
                started.append(
                    subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr
                    )
                )
            yield started
        finally:
            for process in started:
                _reap(process, 0.0)


def _run(folder: Path, generators: Generators, plan: RunPlan, watch: Watch) -> tuple[float, bool]:
    """Return when the run began, and whether an interrupt ended it early."""
    start_s = 0.0
    try:
        if not _wait_until_ready(folder, generators):
            return start_s, False
        start_s = time.perf_counter() + START_LEAD_S
        write_start(folder, start_s)
        watch.began(start_s)
        watch.look()
        _wait(generators, plan, watch, start_s)
        return start_s, False
    except KeyboardInterrupt:
        # A terminal has sent it the interrupt already; a second one changes nothing.
        for process in generators:
            process.send_signal(signal.SIGINT)
        for process in generators:
            _reap(process, START_UP_S)
        watch.look()
        return start_s, True


def _wait_until_ready(folder: Path, generators: Generators) -> bool:
    """Return True when all are connected, False when one has ended before that."""
    end_s = time.monotonic() + START_UP_S
    while not all_ready(folder, len(generators)):
        if any(process.poll() is not None for process in generators):
            return False
        if time.monotonic() > end_s:
            raise BenchError(f"the generator did not connect within {START_UP_S:g} s")
        time.sleep(POLL_S)
    return True


def _wait(generators: Generators, plan: RunPlan, watch: Watch, start_s: float) -> None:
    """Wait for the generators to end; look at the server once a second."""
    limit_s = START_UP_S + plan.window.total_s + plan.window.deadline_ms / 1000
    with progress_bar(plan.name, plan.window.total_s) as tick:
        while (passed_s := time.perf_counter() - start_s) < limit_s:
            running = [process for process in generators if process.poll() is None]
            if not running:
                watch.look()
                return
            try:
                running[0].wait(TICK_S)
            except subprocess.TimeoutExpired:
                tick(passed_s)
                watch.during(passed_s)
                if passed_s >= len(watch.readings):
                    watch.look()
    raise BenchError(f"the generator did not end within {limit_s:.0f} s")


def _reap(process: "subprocess.Popen[bytes]", grace_s: float) -> None:
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
