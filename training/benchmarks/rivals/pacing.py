"""A training stopped and started from outside, a block of steps at a time.

Runs in every contestant's process, whatever its environment: standard library only. Another
process writes one JSON line for each block ({"steps": 20}, or {"steps": 0}: stop) and reads one
JSON line with what the block took. Between the blocks the training sleeps in `Pacer.step`.
"""

import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

KIB = 1 << 10
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Block:
    """What some steps in a row took."""

    steps: int
    seconds: float
    cpu_s: float  # of this process, all threads
    windows: int
    targets: int  # positions whose next item was predicted
    places: int  # windows x length of the batch: targets and padding
    peak_rss_mib: float  # of the process since it began


class Pacer:
    """Counts the steps of a training and keeps it waiting between the blocks."""

    def __init__(self, commands: TextIO, answers: TextIO) -> None:
        self._commands, self._answers = commands, answers
        self._begin(1)  # the first step: whoever reads its block knows that the training runs

    def step(self, windows: int, targets: int, places: int) -> bool:
        """Count a step that is done; false if the training is to stop."""
        self._windows += windows
        self._targets += targets
        self._places += places
        self._left -= 1
        if self._left:
            return True
        tell(self._answers, asdict(self._block()))
        line = self._commands.readline()
        steps = json.loads(line)["steps"] if line else 0  # no line: nobody is there any more
        self._begin(steps)
        return bool(steps)

    def _begin(self, steps: int) -> None:
        self._steps = self._left = steps
        self._windows = self._targets = self._places = 0
        self._cpu_s, self._began_s = time.process_time(), time.perf_counter()

    def _block(self) -> Block:
        return Block(
            steps=self._steps,
            seconds=time.perf_counter() - self._began_s,
            cpu_s=time.process_time() - self._cpu_s,
            windows=self._windows,
            targets=self._targets,
            places=self._places,
            peak_rss_mib=peak_rss_mib(),
        )


def peak_rss_mib() -> float:
    """Return the most memory that this process has held.

    Not by getrusage where it can be helped: on Linux that also counts the process that started
    this one, until it became this one.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        unit_bytes = 1 if sys.platform == "darwin" else KIB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes / MIB
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) * KIB / MIB


def take_stdout() -> TextIO:
    """Return standard output for answers; what libraries print goes to standard error from now."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def tell(answers: TextIO, message: dict[str, Any]) -> None:
    """Write one line."""
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def read_job() -> dict[str, Any]:
    """Return the job that stands in the file named on the command line."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return job
