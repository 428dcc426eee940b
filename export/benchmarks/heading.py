"""What stands in a report beside its numbers: the command, the commit, the day, the machine."""

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from mmsr.training.machine import describe_machine
from mmsr.training.run import provenance

ROOT = Path(__file__).parents[2]


def command_line() -> str:
    """Return how the running benchmark was called, from the root of the source tree."""
    script, *arguments = sys.argv
    return shlex.join(["python", str(Path(script).resolve().relative_to(ROOT)), *arguments])


def commit() -> str:
    """Return the commit of the source tree; "-dirty" at its end: and more, which is in none."""
    return str(provenance()["commit"] or "unknown")


def heading(command: str) -> list[str]:
    """Return the lines of Markdown."""
    machine = describe_machine()
    device = "no GPU" if machine.device == "cpu" else machine.device
    said = f"{machine.processor}, {machine.cores} cores, {machine.memory_gib} GiB, {device}"
    return [
        f"    {command}",
        "",
        f"Commit: {commit()}. Date: {datetime.now(UTC).date()}. Machine: {said}. "
        f"Python {machine.python}.",
    ]
