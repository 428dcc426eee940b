"""Run the named parts of tests/, one pytest call each, and print times beside budgets.

A failing part fails the whole; the other parts are run all the same. Being over a budget is a
warning and no failure: machines differ, and this one may be busy.
"""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

ROOT = Path(__file__).parents[1]
# Two workers, a whole file to each: its module's fixtures are made once. Files come in the order of
# tests/conftest.py, the longest first, and not in that of the number of their tests.
SHARED_OUT = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
BUDGET_S = {"unit": 60, "contract": 60, "integration": 300, "faults": 180}  # on 2 cores


@dataclass(frozen=True, kw_only=True)
class Part:
    """One folder of tests, run."""

    name: str
    seconds: float
    passed: bool

    @property
    def over_budget(self) -> bool:
        """Say whether it took longer than it may."""
        return self.seconds > BUDGET_S.get(self.name, float("inf"))


def halves_of_unit() -> list[list[str]]:
    """Return the options of two runs that take about as long as each other.

    Two workers of one run would both import all that any test imports, a quarter of their time.
    """
    unit, training = Path("tests/unit"), Path("tests/unit/training")
    others = sorted(path for path in (ROOT / unit).iterdir() if path.name != "__pycache__")
    folders = [unit / path.name for path in others if path.is_dir() and path.name != "training"]
    moved = [str(training / name) for name in ("features", "prepare")]
    left_out = [f"--ignore={path}" for path in moved]
    return [[str(training), *left_out], [*map(str, folders), *moved]]


def runs_of(name: str) -> list[list[str]]:
    """Return the options of the pytest runs of a part, which go on side by side."""
    if name == "unit":
        return halves_of_unit()
    return [[*(SHARED_OUT if name in ("integration", "faults") else ()), f"tests/{name}"]]


def run_part(name: str) -> Part:
    """Run `tests/<name>`; further options come from PYTEST_ADDOPTS."""
    print(f"== tests/{name}", flush=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if name != "contract":  # a core each: two threads each would wait in turns
        environment.setdefault("OMP_NUM_THREADS", "1")
    start_s = time.monotonic()
    with ExitStack() as files:
        running: list[tuple[subprocess.Popen[bytes], IO[str] | None]] = []
        for options in runs_of(name):
            # The first is seen as it goes; what the others say comes when they are done.
            output: IO[str] | None = None
            if running:
                output = files.enter_context(TemporaryFile("w+"))
            command = [sys.executable, "-m", "pytest", "-q", *options]
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=output
            )
            running.append((process, output))
        codes = [process.wait() for process, _ in running]
        seconds = time.monotonic() - start_s
        for _, said in running:
            if said is not None:
                said.seek(0)
                print(said.read(), flush=True)
    return Part(name=name, seconds=seconds, passed=not any(codes))


def describe(part: Part) -> str:
    """Return the line of a part in the summary."""
    budget = f"of {BUDGET_S[part.name]:3} s" if part.name in BUDGET_S else "no budget"
    over = "  OVER BUDGET" if part.over_budget else ""
    result = "passed" if part.passed else "FAILED"
    return f"  {part.name:<12} {result}  {part.seconds:6.1f} s {budget}{over}"


def main() -> None:
    """Run the parts named on the command line."""
    parts = [run_part(name) for name in sys.argv[1:]]
    print("\n".join(["tests:", *map(describe, parts)]))
    if not all(part.passed for part in parts):
        sys.exit(1)


if __name__ == "__main__":
    main()
