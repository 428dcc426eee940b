"""Runs the commands of MMSR one after the other, and measures each. Knows no particular command."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
POLL_S = 0.05
Process: TypeAlias = "subprocess.Popen[bytes]"


class StageError(Exception):
    """A command ended with another code than 0."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Stage:
    """What one stage took; `memory_mib` is the largest process of it."""

    name: str
    seconds: float
    memory_mib: float


@dataclass
class Stages:
    """Runs stages and remembers what they took."""

    environment: dict[str, str]
    done: list[Stage] = field(default_factory=list)

    def run(self, name: str, *command: str | Path, also_good: int = 0) -> None:
        """Run one command as a stage, its output shown.

        `StageError` unless it ends with exit code 0 or `also_good`.
        """
        line = [str(part) for part in command]
        announce(name, line)
        start_s = time.monotonic()
        process = subprocess.Popen([str(BIN / line[0]), *line[1:]], env=self.environment)
        memory_mib = 0.0
        try:
            memory_mib = wait(process) or 0.0
        except KeyboardInterrupt:
            name, memory_mib = f"{name} (interrupted)", end(process, 5.0)
            raise
        finally:
            self.done.append(Stage(name, time.monotonic() - start_s, memory_mib))
        code = process.returncode
        if code not in (0, also_good):
            raise StageError(f"{name} ended with exit code {code}", code)

    @contextmanager
    def server(self, repository: Path, port_file: Path) -> Iterator[str]:
        """Serve `repository` on a free port; give HOST:PORT; always end the server at the end."""
        port_file.unlink(missing_ok=True)
        command = ["mmsr-serve", "--repository", str(repository)]
        command += ["--port", "0", "--port-file", str(port_file)]
        announce("serve", command)
        place = len(self.done)  # in the table it stands before what runs against it
        start_s = time.monotonic()
        process = subprocess.Popen([str(BIN / command[0]), *command[1:]], env=self.environment)
        try:
            port = wait_for_port(process, port_file, 60.0)
            seconds = time.monotonic() - start_s
            yield f"127.0.0.1:{port}"
        finally:
            memory_mib = end(process, 30.0)
        if process.returncode:
            raise StageError(f"mmsr-serve ended with exit code {process.returncode}")
        self.done.insert(place, Stage("serve, until ready", seconds, memory_mib))

    def table(self) -> str:
        """Return a table of all stages, in the order in which they ended."""
        rows = [(s.name, f"{s.seconds:.1f}", f"{s.memory_mib:,.0f}") for s in self.done]
        total_s = sum(stage.seconds for stage in self.done)
        most_mib = max((stage.memory_mib for stage in self.done), default=0.0)
        rows = [("stage", "seconds", "peak MiB"), *rows]
        rows.append(("all", f"{total_s:.1f}", f"{most_mib:,.0f}"))
        return "\n".join(f"  {name:<24}{seconds:>9}{memory:>10}" for name, seconds, memory in rows)


def announce(name: str, command: list[str]) -> None:
    """Print a command as one would type it in the project's folder."""
    typed = [part.removeprefix(f"{ROOT}/") for part in command]
    print(f"\n== {name}: {shlex.join(typed)}", flush=True)


def wait(process: Process, flags: int = 0) -> float | None:
    """Wait for a process; return its peak memory in MiB, or None if it still runs (WNOHANG).

    Memory includes the processes that it waited for. Of several the largest counts: the kernel
    keeps no sum.
    """
    pid, status, usage = os.wait4(process.pid, flags)
    if pid == 0:
        return None
    process.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait again
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def end(process: Process, grace_s: float) -> float:
    """Ask a process to end, and make it end after `grace_s`; return its peak memory in MiB."""
    if process.returncode is not None:
        return 0.0
    # Not Popen's own signals: they reap a process that has ended, and its memory is lost.
    os.kill(process.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + grace_s
    while time.monotonic() < deadline_s:
        memory_mib = wait(process, os.WNOHANG)
        if memory_mib is not None:
            return memory_mib
        time.sleep(POLL_S)
    os.kill(process.pid, signal.SIGKILL)
    return wait(process) or 0.0


def wait_for_port(process: Process, port_file: Path, limit_s: float) -> int:
    """Return the port that the server wrote; `StageError` if it ends or takes too long."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        text = port_file.read_text().strip() if port_file.exists() else ""
        if text:
            return int(text)
        if process.poll() is not None:
            raise StageError(f"mmsr-serve ended with exit code {process.returncode}")
        time.sleep(POLL_S)
    raise StageError(f"mmsr-serve was not ready within {limit_s:g} s")
