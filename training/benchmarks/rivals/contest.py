"""Runs the contestants' processes in turns: A B C, C B A, and so on; one works, the others wait."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.rivals.contestants import Contestant, Shape
from benchmarks.rivals.environments import SOURCES, RivalError, python_of
from benchmarks.rivals.pacing import Block

LOG_LINES = 15  # of a process that has failed
END_TIMEOUT_S = 120.0
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ARROW_IO_THREADS",
)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What the contestants train on and where they may write."""

    data: Path  # prepared
    windows: Path
    venvs: Path
    work: Path


@dataclass(kw_only=True)
class Racer:
    """A contestant's process and what it has answered."""

    contestant: Contestant
    process: subprocess.Popen[str]
    log: Path
    about: dict[str, Any] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)  # one a pass

    def answer(self) -> dict[str, Any]:
        """Wait for the next line; `RivalError` with the end of its log if there is none."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            last = "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            raise RivalError(f"{self.contestant.name} ended with code {code}:\n{last}")
        message: dict[str, Any] = json.loads(line)
        return message

    def run(self, steps: int) -> Block:
        """Let it take so many steps."""
        self.tell(steps)
        return Block(**self.answer())

    def tell(self, steps: int) -> None:
        """Send a command; no steps: stop."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"steps": steps}) + "\n")
        self.process.stdin.flush()


@contextmanager
def started(contestant: Contestant, shape: Shape, ground: Ground) -> Iterator[Racer]:
    """Start a contestant, wait until its first step is done, and end it afterwards."""
    slug = "".join(c if c.isalnum() else "-" for c in contestant.name)
    job, log = ground.work / f"{slug}.json", ground.work / f"{slug}.log"
    places = {"data": str(ground.data), "windows": str(ground.windows)}
    job.write_text(json.dumps({"contestant": asdict(contestant), "shape": asdict(shape), **places}))
    with log.open("w") as errors:
        process = subprocess.Popen(
            [
                str(python_of(contestant.engine, ground.venvs)),
                "-m",
                f"benchmarks.rivals.{contestant.engine}_worker",
                str(job),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ground.work,
            env=_environment(shape),
        )
    racer = Racer(contestant=contestant, process=process, log=log)
    try:
        racer.about = racer.answer()
        racer.answer()  # the first step
        yield racer
        racer.tell(0)
        process.wait(END_TIMEOUT_S)
    finally:
        process.kill()
        process.wait()


def _environment(shape: Shape) -> dict[str, str]:
    threads = dict.fromkeys(THREAD_VARIABLES, str(shape.threads))
    path = os.pathsep.join((str(SOURCES), os.environ.get("PYTHONPATH", "")))
    return {**os.environ, **threads, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}


def take_turns(racers: list[Racer], steps: int, rounds: int) -> Iterator[tuple[int, Racer]]:
    """Yield the number of the pass and a racer after each of its blocks; a round is two passes."""
    for number in range(2 * rounds):
        for racer in racers if number % 2 == 0 else reversed(racers):
            racer.blocks.append(racer.run(steps))
            yield number, racer
