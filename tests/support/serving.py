"""Starts the real `mmsr-serve` as a process and waits on what it logs. Never sleeps."""

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.tiny_bundle import Shop

from mmsr.engine.config import ServeConfig, ServerConfig

PROGRAM = ("-m", "mmsr.engine.cli")
PATIENCE_S = 120.0  # the machine may be busy with other things


def config_of(shop: Shop, *, grace_s: float = 30.0, lame_duck_s: float = 0.0) -> ServeConfig:
    """Return the settings of a server of `shop` that a test runs in its own process."""
    return ServeConfig(
        server=ServerConfig(
            repository=shop.root, port=0, threads=1, grace_s=grace_s, lame_duck_s=lame_duck_s
        )
    )


class Served:
    """A server process and its log."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Return the first match in the log, waiting for it to be written."""
        deadline = time.monotonic() + PATIENCE_S

        def found() -> re.Match[str] | None:
            return next((m for line in self.lines if (m := re.search(pattern, line))), None)

        with self._news:
            while (match := found()) is None:
                left_s = deadline - time.monotonic()
                assert left_s > 0, f"{pattern!r} was not logged in time:\n{self.log}"
                assert not self._ended, f"the server ended without {pattern!r}:\n{self.log}"
                self._news.wait(left_s)
        return match

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    @property
    def target(self) -> str:
        """HOST:PORT, once it serves."""
        return self.wait_for(r"serving [0-9a-f]{16} on (127\.0\.0\.1:\d+), ")[1]

    def end(self) -> int:
        """Wait for the process and its log to end; return the exit code."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.end()


def start(root: Path, *flags: str, program: Sequence[str] = PROGRAM) -> Served:
    """Start a server of `root` on a free port."""
    command = [sys.executable, *program, "--repository", str(root)]
    if "--port" not in flags:
        flags = (*flags, "--port", "0")
    return Served(subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True))


@contextmanager
def serving(root: Path, *flags: str) -> Iterator[Served]:
    """Keep a server running; it must neither crash nor log an error."""
    served = start(root, *flags)
    try:
        yield served
        if served.process.poll() is None:
            assert served.stop() == 0, served.log
        assert "Traceback" not in served.log
        assert " ERROR " not in served.log
    finally:
        served.process.kill()
        served.end()
