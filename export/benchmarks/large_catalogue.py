"""Seconds and peak memory of `mmsr-export` on a catalogue of a million items.

    python export/benchmarks/large_catalogue.py --json export/results/large-catalogue.json

Generates a shop without pictures and saves an untrained checkpoint (the cost of an export does not
depend on the weights; `--accept-drop`, since it cannot beat popularity), which is exported by
a process of its own, once and once again. The peak is the kernel's count of resident memory
(wait4), pages of mapped files included. Exits with 1 above the limit.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mmsr.bundle.terminal import run as run_app
from mmsr.training.checkpoint import Progress, save_checkpoint, save_run_info
from mmsr.training.config import parse_recipe
from mmsr.training.machine import describe_machine
from mmsr.training.run import start_run

KIB_PER_GIB = 1 << 20
GIB = 1 << 30
INTERACTIONS_PER_ITEM = 3

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, kw_only=True)
class Export:
    """What one process took, and its own account of it."""

    seconds: float
    peak_gib: float
    stages: dict[str, float]


def spawn(module: str, *arguments: str) -> tuple[float, float, str]:
    """Run a command line of ours; return seconds, peak GiB and what it printed."""
    command = [sys.executable, "-c", f"from {module} import main; main()", *arguments]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{module} ended with {process.returncode}")
    return time.monotonic() - began, usage.ru_maxrss / KIB_PER_GIB, printed


def untrained_run(data: Path, out: Path, width: int) -> None:
    """Save the checkpoint of a model with ids, positions and categories, as it begins."""
    model: dict[str, Any] = {"sources": ["id", "position", "category"], "width": width}
    tables = {"model": model, "loss": {"softmax": "sampled"}}
    trainer = start_run(parse_recipe(tables, "large catalogue"), data, out, resume=False)
    save_checkpoint(out, trainer.model.state_dict(), {}, Progress(epoch=1, best_epoch=1))
    save_run_info(out, trainer.info)


def export(run: Path, repository: Path) -> Export:
    """Export the run as `mmsr-export` does."""
    options = ("--repository", str(repository), "--accept-drop", "--json")
    seconds, peak_gib, printed = spawn("mmsr.export.cli", str(run), *options)
    return Export(seconds=seconds, peak_gib=peak_gib, stages=json.loads(printed)["seconds"])


@app.command()
def main(
    items: Annotated[int, typer.Option(min=1000)] = 1_000_000,
    width: Annotated[int, typer.Option(min=8)] = 128,
    limit_gib: Annotated[float, typer.Option(help="exit with 1 above it")] = 8.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the numbers")] = None,
) -> None:
    """Export an untrained model of a large shop twice; print seconds and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        data, run, repository = (Path(folder) / name for name in ("data", "run", "repository"))
        counts = ("--items", items, "--users", items // 4)
        volume = ("--interactions", items * INTERACTIONS_PER_ITEM)
        shop = map(str, ("prepare", "toy", data, *counts, *volume, "--no-images"))
        spawn("mmsr.training.cli", *shop)
        untrained_run(data, run, width)
        exports = [export(run, repository) for _ in range(2)]
        [bundle] = (repository / "versions").iterdir()
        tables = sum(path.stat().st_size for path in (bundle / "tables").iterdir())
    found = {
        "items": items,
        "width": width,
        "tables_gib": tables / GIB,
        "exports": [asdict(one) for one in exports],
        "machine": asdict(describe_machine()),
    }
    typer.echo(json.dumps(found, indent=1))
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n")
    if max(one.peak_gib for one in exports) > limit_gib:
        raise typer.Exit(1)


if __name__ == "__main__":
    run_app(app)
