"""Seconds and peak memory of `mmsr-export`, stage by stage, on catalogues of any size.

    python export/benchmarks/large_catalogue.py --markdown export/results/large-catalogue.md

Generates a shop without pictures and saves an untrained checkpoint (the cost of an export does not
depend on the weights; `--accept-drop`, since it cannot beat popularity), which is exported by
a process of its own, once and once again: the second export converts nothing and compares with the
first bundle, as every night does. The peak is the kernel's count of resident memory (Linux), pages
of mapped files included. Exits with 1 above a limit.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.heading import command_line, commit, heading
from benchmarks.stage_memory import OPENING
from mmsr.bundle.terminal import run as run_app
from mmsr.training.checkpoint import Progress, save_checkpoint, save_run_info
from mmsr.training.config import parse_recipe
from mmsr.training.machine import describe_machine
from mmsr.training.run import start_run

KIB_PER_GIB = 1 << 20
MIB_PER_GIB = 1 << 10
GIB = 1 << 30
INTERACTIONS_PER_ITEM = 3
MOST_GIB = 8.0  # whatever the tables are
TIMES_THE_TABLES, BESIDE_THEM_GIB = 2.0, 1.0
# What makes the run: this process stays small, as what it starts is counted from its size on.
MAKE = """
import sys
from pathlib import Path
from benchmarks.large_catalogue import untrained_run
untrained_run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
"""
EXPORTS = ("first export", "second export")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, kw_only=True)
class Process:
    """What one process took."""

    seconds: float
    cpu_seconds: float
    peak_gib: float
    printed: str


@dataclass(frozen=True, kw_only=True)
class Export:
    """One export, and its own account of its stages."""

    seconds: float
    cpu_seconds: float
    peak_gib: float  # the largest of the stages'
    stages: dict[str, float]  # seconds
    memory: dict[str, dict[str, float]]  # stage -> MiB, see `stage_memory.Memory`


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Two exports of one catalogue, and the limits of its size."""

    items: int
    width: int
    tables_gib: float
    exports: list[Export]

    @property
    def peak_gib(self) -> float:
        """The larger peak of the two."""
        return max(one.peak_gib for one in self.exports)

    @property
    def limits_gib(self) -> dict[str, float]:
        """Each limit by its name."""
        by_tables = TIMES_THE_TABLES * self.tables_gib + BESIDE_THEM_GIB
        return {"2 x tables + 1 GiB": by_tables, "8 GiB": MOST_GIB}


def spawn(program: str, *arguments: str) -> Process:
    """Run a line of Python with arguments; end with it if it fails."""
    command = [sys.executable, "-c", program, *arguments]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{program.strip()}\nended with {process.returncode}")
    return Process(
        seconds=time.monotonic() - began,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_gib=usage.ru_maxrss / KIB_PER_GIB,
        printed=printed,
    )


def untrained_run(data: Path, out: Path, width: int) -> None:
    """Save the checkpoint of a model with ids, positions and categories, as it begins."""
    model: dict[str, Any] = {"sources": ["id", "position", "category"], "width": width}
    tables = {"model": model, "loss": {"softmax": "sampled"}}
    trainer = start_run(parse_recipe(tables, "large catalogue"), data, out, resume=False)
    save_checkpoint(out, trainer.model.state_dict(), {}, Progress(epoch=1, best_epoch=1))
    save_run_info(out, trainer.info)


def export(run: Path, repository: Path) -> Export:
    """Export the run as `mmsr-export` does."""
    account = run.parent / "memory.json"
    options = ("--repository", str(repository), "--accept-drop", "--json")
    watched = "from benchmarks.stage_memory import main; main()"
    process = spawn(watched, str(account), str(run), *options)
    memory: dict[str, dict[str, float]] = json.loads(account.read_text())
    peaks_gib = [found["peak_mib"] / MIB_PER_GIB for found in memory.values()]
    return Export(
        seconds=process.seconds,
        cpu_seconds=process.cpu_seconds,
        peak_gib=max(process.peak_gib, *peaks_gib),
        stages=json.loads(process.printed)["seconds"],
        memory=memory,
    )


def measure(items: int, width: int) -> Catalogue:
    """Make a shop and export it twice."""
    with tempfile.TemporaryDirectory() as folder:
        data, run, repository = (Path(folder) / name for name in ("data", "run", "repository"))
        counts = ("--items", items, "--users", items // 4)
        volume = ("--interactions", items * INTERACTIONS_PER_ITEM)
        shop = map(str, ("prepare", "toy", data, *counts, *volume, "--no-images"))
        spawn("from mmsr.training.cli import main; main()", *shop)
        spawn(MAKE, str(data), str(run), str(width))
        exports = [export(run, repository) for _ in EXPORTS]
        [bundle] = (repository / "versions").iterdir()
        tables = sum(path.stat().st_size for path in (bundle / "tables").iterdir())
    return Catalogue(items=items, width=width, tables_gib=tables / GIB, exports=exports)


def lines(found: Catalogue) -> Iterator[str]:
    """Yield a catalogue's part of the report."""
    yield f"## {found.items:,} items, width {found.width}"
    yield ""
    yield f"Tables: {found.tables_gib:.2f} GiB. Peak: {found.peak_gib:.2f} GiB."
    yield ""
    yield "| limit | GiB | peak / limit | |"
    yield "|---|--:|--:|---|"
    for name, limit_gib in found.limits_gib.items():
        verdict = "kept" if found.peak_gib <= limit_gib else "**missed**"
        yield f"| {name} | {limit_gib:.2f} | {found.peak_gib / limit_gib:.2f} | {verdict} |"
    for name, one in zip(EXPORTS, found.exports, strict=True):
        yield ""
        yield (
            f"{name.capitalize()}: {one.seconds:.1f} s by the clock, {one.cpu_seconds:.1f} s of "
            f"CPU time, peak {one.peak_gib:.2f} GiB."
        )
        yield ""
        yield "| stage | s | peak in it, MiB | at its end: own | mapped files |"
        yield "|---|--:|--:|--:|--:|"
        for stage, memory in one.memory.items():
            seconds = f"{one.stages[stage]:.1f}" if stage in one.stages else ""
            sizes = (memory[f"{what}_mib"] for what in ("peak", "own", "files"))
            yield f"| {stage} | {seconds} | {' | '.join(f'{size:,.0f}' for size in sizes)} |"
    yield ""


def report(head: list[str], catalogues: list[Catalogue]) -> str:
    """Return the whole report."""
    text = [
        "# What an export takes in memory, by the size of the catalogue",
        "",
        *head,
        "",
        "Untrained models with ids, positions and categories; a generated shop without pictures,",
        f"{INTERACTIONS_PER_ITEM} interactions an item. Each is exported into an empty repository",
        "and once again. Memory is what is resident, by the kernel's count: the process's own and",
        "the pages of mapped files, which the kernel takes back when others need them. Peaks are",
        f'of one stage each; "{OPENING}" is Python, its libraries and the checkpoint.',
        "",
        *(line for found in catalogues for line in lines(found)),
    ]
    return "\n".join(text)


@app.command()
def main(
    items: Annotated[list[int], typer.Option(min=1000)] = [12_000, 1_000_000],  # noqa: B006
    width: Annotated[int, typer.Option(min=8)] = 128,
    markdown: Annotated[Path | None, typer.Option(help="write the report there")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the numbers")] = None,
) -> None:
    """Export an untrained model of each size twice; print seconds and peak memory."""
    head = heading(command_line())  # as it is now, not when it ends
    known = {"command": command_line(), "commit": commit()}
    catalogues = [measure(count, width) for count in items]
    text = report(head, catalogues)
    typer.echo(text)
    if markdown is not None:
        markdown.write_text(text)
    if json_file is not None:
        whole = {
            **known,
            "catalogues": [
                {**asdict(found), "limits_gib": found.limits_gib} for found in catalogues
            ],
            "machine": asdict(describe_machine()),
        }
        json_file.write_text(json.dumps(whole, indent=1) + "\n")
    if any(found.peak_gib > min(found.limits_gib.values()) for found in catalogues):
        raise typer.Exit(1)


if __name__ == "__main__":
    run_app(app)
