"""A server's processes: started in a group of their own, stopped between turns, and their CPU time.

Everything that a server starts stays below its first process; Linux alone (/proc).
"""

import os
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mmsr.bundle.errors import MmsrError

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
END_S = 15.0  # from SIGTERM to SIGKILL
LOG_LINES = 20
PARENT, USER_TICKS, SYSTEM_TICKS = 1, 11, 12  # fields of /proc/PID/stat after the command's name


class ServerError(MmsrError):
    """A server has not started, or has ended."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server's first process and where it writes what it says."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def tree(self) -> list[int]:
        """Return the ids of the first process and of all below it."""
        children: dict[int, list[int]] = defaultdict(list)
        for pid, fields in _all_stats():
            children[int(fields[PARENT])].append(pid)
        found = [self.process.pid]
        for pid in found:  # grows as it is read
            found += children[pid]
        return found

    def cpu_s(self) -> float:
        """Return the CPU seconds of all its processes since each began."""
        own = set(self.tree())
        ticks = sum(
            int(fields[USER_TICKS]) + int(fields[SYSTEM_TICKS])
            for pid, fields in _all_stats()
            if pid in own
        )
        return ticks / TICKS_PER_S

    def pause(self) -> None:
        """Let none of its processes run: those that poll would take time from whoever is asked."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them run again."""
        self._signal(signal.SIGCONT)

    def require_alive(self) -> None:
        """Raise `ServerError` with the end of its log if it has ended."""
        code = self.process.poll()
        if code is not None:
            raise ServerError(f"{self.name} ended with code {code}:\n{self.last_words()}")

    def last_words(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def end(self) -> None:
        """Stop it: politely, then all that is left of it by force."""
        self.resume()
        own = self.tree()
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        for pid in own:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.tree():
            with suppress(ProcessLookupError):
                os.kill(pid, number)


@contextmanager
def running(
    name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[Running]:
    """Keep a server's processes until the end of the block."""
    with log.open("wb") as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env={**os.environ, **environment},
            cwd=log.parent,
            start_new_session=True,
        )
    server = Running(name=name, process=process, log=log)
    try:
        yield server
    finally:
        server.end()


def _all_stats() -> Iterator[tuple[int, list[str]]]:
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with suppress(OSError):  # it has ended meanwhile
                text = Path(entry.path, "stat").read_text()
                # The command's name stands in brackets and may hold anything.
                yield int(entry.name), text.rpartition(")")[2].split()
