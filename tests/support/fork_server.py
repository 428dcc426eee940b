"""Starts `mmsr-train` or `mmsr-export` as real processes that need not import torch anew.

A server process imports everything once and forks for every command, so that a command begins in
milliseconds. What it forks is a process like any other: it has its own id and can be killed.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

PATIENCE_S = 120.0
# What each imports once: the module with its `main`, and what that imports only when it is needed.
COMMANDS = {
    "mmsr-train": ("mmsr.training.cli", "mmsr.training.run", "mmsr.training.watch"),
    "mmsr-export": (
        *("mmsr.export.cli", "mmsr.export.build", "mmsr.export.quality"),
        *("mmsr.export.tensorrt.flavour", "tokenizers"),
    ),
}
# One thread, so that forking is safe; and what is compared to the last bit is computed alike.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(kw_only=True)
class Forked:
    """A process of the server."""

    pid: int
    output: Path  # what it prints, both streams
    server: "ForkServer"

    def ended_within(self, seconds: float) -> bool:
        """Wait until the process has ended, but no longer than that."""
        descriptor = os.pidfd_open(self.pid)
        try:
            return bool(select.select([descriptor], [], [], seconds)[0])
        finally:
            os.close(descriptor)

    def kill(self) -> None:
        """Kill -9, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.code()

    def code(self) -> int:
        """Return the exit code, negative for a signal; it must end within `PATIENCE_S`."""
        if not self.ended_within(PATIENCE_S):
            os.kill(self.pid, signal.SIGKILL)
        self.server.running.discard(self.pid)
        answer: int = self.server.ask({"wait": self.pid})["code"]
        return answer


@dataclass(kw_only=True)
class ForkServer:
    """The test's side."""

    process: "subprocess.Popen[str]"
    command: str
    folder: Path
    running: set[int] = field(default_factory=set)
    started: int = 0

    def start(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Forked:
        """Start the command with these arguments."""
        self.started += 1
        output = self.folder / f"output-{self.started}.txt"
        argv = [self.command, *(str(argument) for argument in arguments)]
        pid = self.ask({"argv": argv, "env": dict(env or {}), "output": str(output)})["pid"]
        self.running.add(pid)
        return Forked(pid=pid, output=output, server=self)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        line = stdout.readline()
        assert line, "the fork server has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def fork_server(folder: Path, command: str = "mmsr-train") -> Iterator[ForkServer]:
    """Run a server of a command, whose processes write their output into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, __file__, command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    )
    server = ForkServer(process=process, command=command, folder=folder)
    try:
        yield server
    finally:
        for pid in server.running:
            os.kill(pid, signal.SIGKILL)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(PATIENCE_S)
        assert process.stdout is not None
        process.stdout.close()


def serve(requests: IO[str], answers: IO[str], command: str) -> None:
    """Answer requests until there are no more."""
    import torch._dynamo  # noqa: F401  the first optimizer imports it, which takes seconds

    main: Callable[[], None] = import_module(COMMANDS[command][0]).main
    for module in COMMANDS[command]:
        import_module(module)
    for line in requests:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                _become(main, request)
            answer = {"pid": pid}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _become(main: Callable[[], None], request: dict[str, Any]) -> NoReturn:
    """Be the command, in the process that was just forked."""
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.environ.update(request["env"])
    sys.argv = request["argv"]
    code: Any = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        code = 70
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout, sys.argv[1])
