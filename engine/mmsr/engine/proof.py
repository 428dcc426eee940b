"""Tries a bundle in a process of its own before the server opens it.

Hashing and the whole probe set cost seconds of computing, and memory for every row's score. In
another process they take neither the interpreter nor memory from the one that answers, and what
crashes there has crashed there. It runs at a lower priority, on the CPU: the few probes that
follow in the server (`probe.prove_briefly`) are computed by the runner that will answer.

`python -m mmsr.engine.proof FOLDER NICE PARENT` is that process.
"""

import os
import subprocess
import sys
from pathlib import Path

from mmsr.bundle.errors import MmsrError
from mmsr.engine.errors import ProbeFailed


class Proof:
    """One trial; `run` blocks, `stop` ends it from another thread."""

    def __init__(self, folder: Path, *, nice: int, limit_s: float) -> None:
        self._folder = folder
        self._nice = nice
        self._limit_s = limit_s
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def run(self) -> str:
        """Return what was found in half a line; `ProbeFailed` if the bundle is not to be served."""
        arguments = [str(self._folder), str(self._nice), str(os.getpid())]
        command = [sys.executable, "-m", "mmsr.engine.proof", *arguments]
        # No GPU: the memory that the server's own runners do not use is what they will need next.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        ) as process:
            self._process = process
            if self._stopped:
                process.kill()
            try:
                said, complaint = process.communicate(timeout=self._limit_s)
            except subprocess.TimeoutExpired:
                process.kill()
                raise ProbeFailed(
                    f"the trial of the bundle did not end within {self._limit_s:g} s"
                ) from None
        if process.returncode:
            raise ProbeFailed(_reason(process.returncode, complaint))
        return said.strip()

    def stop(self) -> None:
        """End the trial, if it goes on."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()


def _reason(code: int, complaint: str) -> str:
    last = (complaint.strip().splitlines() or [""])[-1].removeprefix("error: ")
    if code < 0:
        return f"the trial of the bundle was ended by signal {-code}"
    return last or f"the trial of the bundle ended with code {code}"


def main() -> None:
    """Prove the bundle named on the command line; one line says what was found or is wrong."""
    from mmsr.engine.bench.interrupt import end_with

    end_with(int(sys.argv[3]))
    os.nice(int(sys.argv[2]))
    from mmsr.engine.probe import describe, run_probe

    try:
        report = run_probe(Path(sys.argv[1]), threads=1)
        report.check()
    except (MmsrError, OSError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(describe(report) + "\n")


if __name__ == "__main__":
    main()
