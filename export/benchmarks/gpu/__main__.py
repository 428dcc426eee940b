"""gpu-check: everything that only a GPU can show, in one command and at most ten minutes.

    PYTHONPATH=training:export:engine:proto:tests python3 -m benchmarks.gpu [--cpu --quick]

Needs torch and numpy; uses what else there is (onnx, onnxruntime-gpu, tensorrt, tensorrt_rtx) and
says what it left out. Writes JSON and Markdown to --out, or $OUT, or export/results.

Exit code 0: every section ran or was skipped with its reason. 1: a section failed or ran out of
time; the others are in the report. 3: there is no CUDA device (and no --cpu); nothing was written.
`make gpu-check` itself ends with 2 whenever this is not 0, and prints the code.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu.report import first_line, to_markdown
from benchmarks.gpu.sections import SECTIONS, run_section
from benchmarks.gpu.setting import Findings, Setting

NO_CUDA = 3
FAILED = 1
WHOLE_RUN_S = 570.0  # under the ten minutes that one command may take on a lent machine
LEAST_S = 8.0  # what a section needs to be begun: imports alone take some
ROOT = Path(__file__).parents[3]
ASK_CUDA = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"


def main() -> int:
    """Run the sections, each in a process of its own, and write the report."""
    options = _options()
    if options.section:
        return _child(options)
    gpu = "" if options.cpu else _gpu_name()
    if not gpu and not options.cpu:
        print("gpu-check: no CUDA device here: nothing measured (--cpu --quick tries the code)")
        return NO_CUDA
    began = time.monotonic()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as work:
        for name in options.only or SECTIONS:
            left_s = options.seconds - (time.monotonic() - began)
            results[name] = _run(name, options, Path(work), left_s)
            print(f"{name:16s} {results[name]['seconds']:6.1f} s  {results[name]['outcome']}")
            sys.stdout.flush()
    head = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "command": " ".join(["python3 -m benchmarks.gpu", *sys.argv[1:]]),
        "seconds": time.monotonic() - began,
        "device": "cpu" if options.cpu else "cuda",
        "gpu": gpu,
    }
    _write(options.out, head, results)
    return FAILED if any(r["failed"] for r in results.values()) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--cpu", action="store_true", help="try the code on a CPU")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="some sections")
    parser.add_argument("--seconds", type=float, default=WHOLE_RUN_S, help="of the whole run")
    default = Path(os.environ.get("OUT") or ROOT / "export" / "results")
    parser.add_argument("--out", type=Path, default=default, help="folder of the report")
    parser.add_argument("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def _child(options: argparse.Namespace) -> int:
    setting = Setting(
        work=options.work, device="cpu" if options.cpu else "cuda", quick=options.quick
    )
    findings = Findings(path=options.work / f"{options.section}.json")
    findings.save()
    run_section(options.section, setting, findings)
    return 0


def _run(name: str, options: argparse.Namespace, work: Path, left_s: float) -> dict[str, Any]:
    """Run one section in a process; return its findings and how it ended."""
    if left_s < LEAST_S:
        return _ended("skipped: the time of the whole run was up", 0.0, False)
    limit_s = min(SECTIONS[name].limit_s, left_s)
    command = [sys.executable, "-m", "benchmarks.gpu", "--section", name, "--work", str(work)]
    command += ["--out", str(options.out)]
    command += [flag for flag in ("--cpu", "--quick") if getattr(options, flag[2:])]
    log = work / f"{name}.log"
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            # The section stops by itself at its limit; what hangs is ended a little later.
            code = process.wait(min(limit_s + 10, left_s))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
    seconds = time.monotonic() - began
    found = _found(work / f"{name}.json")
    if code is None:
        return _ended(f"FAILED: ended after {seconds:.0f} s", seconds, True, found)
    if code != 0:
        return _ended(f"FAILED ({_why(code, log)})", seconds, True, found)
    skipped = found["values"].pop("skipped", None)
    return _ended(f"skipped: {skipped}" if skipped else "done", seconds, False, found)


def _ended(
    outcome: str, seconds: float, failed: bool, found: dict[str, Any] | None = None
) -> dict[str, Any]:
    found = found or {"values": {}, "cells": [], "notes": []}
    return {"outcome": outcome, "seconds": seconds, "failed": failed, **found}


def _found(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {"values": {}, "cells": [], "notes": []}
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _why(code: int, log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1][:400] if lines else "it said nothing"
    return f"signal {-code}: {last}" if code < 0 else last


def _gpu_name() -> str:
    done = subprocess.run([sys.executable, "-c", ASK_CUDA], capture_output=True, text=True)
    if done.returncode:
        print(f"gpu-check: torch does not work here: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _write(folder: Path, head: dict[str, Any], results: dict[str, Any]) -> None:
    name = "gpu-check" if head["device"] == "cuda" else "gpu-check-dry-run"
    whole = {"head": head, "sections": results}
    (folder / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
    (folder / f"{name}.md").write_text(to_markdown(head, results))
    print(first_line(head, results))
    print(f"report: {folder / name}.md and .json, {head['seconds']:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
