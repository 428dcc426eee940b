"""What no server could exceed on this machine: bare gRPC, the runner alone, the memory.

Measured on this machine by the same generators, right after the scenario. The bare echo shares the
cores with the generators, as the server did: it is the ceiling of both together.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmsr.engine.bench.echo import KINDS
from mmsr.engine.bench.engine_bench import (
    Point,
    make_batches,
    scored_table_bytes,
    time_batches,
)
from mmsr.engine.bench.histories import load_histories
from mmsr.engine.bench.launch import Watch, launch
from mmsr.engine.bench.memory import copy_rate_gb_per_s
from mmsr.engine.bench.plan import RunPlan, Window
from mmsr.engine.bench.summary import RunSummary, summarise
from mmsr.engine.bench.synthetic import Asked
from mmsr.engine.config import default_threads
from mmsr.engine.model import open_model

ECHO = [sys.executable, "-m", "mmsr.engine.bench.echo"]
ECHO_CALLERS = 32  # enough to keep two cores busy
ECHO_S, ECHO_WARM_UP_S = 2.5, 0.5  # of each kind
RUNNER_S = 1.0  # of each batch size
RUNNER_BATCHES = (1, 8, 64)


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The limits of this machine, in requests (or bytes) per second."""

    echo_per_s: dict[str, float]  # by kind of server
    echo_cpu_us: dict[str, float | None]  # of the echo's process, per request
    runner_per_s: dict[str, float]  # by batch size
    copy_gb_per_s: float  # read and written, one thread
    table_bytes: int  # that a batch reads to score every item once
    threads: int  # of the runner

    @property
    def echo(self) -> float:
        """Return the rate of the best echo."""
        return max(self.echo_per_s.values())

    @property
    def runner(self) -> float:
        """Return the rate of the runner at its best batch size."""
        return max(self.runner_per_s.values())

    def memory_per_s(self, batch_size: float) -> float:
        """Return the requests a second that memory allows: each batch reads the table once."""
        return batch_size * self.copy_gb_per_s * 1e9 / self.table_bytes

    def shares(self, run: RunSummary) -> dict[str, float | None]:
        """Return what a run reached of each ceiling."""
        batch = run.server.batch_size
        return {
            "echo": run.answered_per_s / self.echo,
            "runner": run.answered_per_s / self.runner,
            "memory": None if batch is None else run.answered_per_s / self.memory_per_s(batch),
        }


def measure_ceilings(bundle: Path, requests: list[bytes], k: int, plan: RunPlan) -> Ceilings:
    """Measure all of them; about 15 s. `plan` is one of the scenario's, for its traffic."""
    echo_per_s, echo_cpu_us = {}, {}
    for kind in KINDS:
        run = _measure_echo(kind, k, requests, plan)
        if run is not None:
            echo_per_s[kind] = run.answered_per_s
            echo_cpu_us[kind] = run.process.cpu_us if run.process else None
    threads = default_threads()
    runner_per_s, table_bytes = _measure_runner(bundle, k, threads)
    return Ceilings(
        echo_per_s=echo_per_s,
        echo_cpu_us=echo_cpu_us,
        runner_per_s=runner_per_s,
        copy_gb_per_s=copy_rate_gb_per_s(),
        table_bytes=table_bytes,
        threads=threads,
    )


def _measure_echo(kind: str, k: int, requests: list[bytes], plan: RunPlan) -> RunSummary | None:
    window = Window(warm_up_s=ECHO_WARM_UP_S, duration_s=ECHO_S, seed=plan.window.seed)
    closed = RunPlan(
        concurrency=ECHO_CALLERS,
        window=window,
        traffic=replace(plan.traffic, headline=False),
    )
    with echo_server(kind, k) as found:
        if found is None:
            return None
        target, pid = found
        result = launch(target, closed, requests, Watch(pid=pid))
    if result.interrupted:
        raise KeyboardInterrupt
    assert result.found is not None
    return summarise(closed, *result.found, result.server, result.start_s)


@contextmanager
def echo_server(kind: str, k: int) -> Iterator[tuple[str, int] | None]:
    """Keep an echo running; give its target and process, or None where it cannot run here."""
    process = subprocess.Popen(
        [*ECHO, kind, str(k), str(os.getpid())], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        yield (f"127.0.0.1:{port}", process.pid) if port else None
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _measure_runner(bundle: Path, k: int, threads: int) -> tuple[dict[str, float], int]:
    """Return requests per second by batch size, at the mean length of the histories."""
    lengths = [len(history) for history in load_histories(bundle)]
    model = open_model(bundle, threads=threads, runner="auto")  # as mmsr-serve does
    try:
        length = max(1, min(model.max_length, round(float(np.mean(lengths)))))
        k = min(k, len(model.bundle.catalogue))
        per_s = {}
        asked = Asked(model=model, items=None)
        for batch in RUNNER_BATCHES:
            point = Point(batch=batch, length=length, k=k, items=None)
            requests = make_batches(model, point, seed=0)
            times_R3 = time_batches(asked, requests, RUNNER_S, lambda passed_s: None)
            per_s[str(batch)] = batch * len(times_R3) / float(times_R3.sum())
        return per_s, scored_table_bytes(model, None)
    finally:
        model.close()
