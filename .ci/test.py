"""Run the named parts of tests/, one pytest call each, and print times beside budgets.

A failing part fails the whole; the other parts are run all the same. Being over a budget is a
warning and no failure: machines differ, and this one may be busy.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Two workers, a whole file to each: its module's fixtures are made once. Files come in the order of
# tests/conftest.py, the longest first, and not in that of the number of their tests.
SHARED_OUT = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
WORKERS = dict.fromkeys(("unit", "integration"), SHARED_OUT)
BUDGET_S = {"unit": 60, "contract": 60, "integration": 300}  # on 2 cores


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


def run_part(name: str) -> Part:
    """Run `tests/<name>`; further options come from PYTEST_ADDOPTS."""
    print(f"== tests/{name}", flush=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if name in WORKERS:  # one core each: with a thread for every core they would wait in turns
        environment.setdefault("OMP_NUM_THREADS", "1")
    start_s = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", *WORKERS.get(name, ()), f"tests/{name}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    seconds = time.monotonic() - start_s
    return Part(name=name, seconds=seconds, passed=done.returncode == 0)


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
