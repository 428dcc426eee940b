"""Training speed beside RecTools' and RePlay's SASRec, on the CPU, in one interleaved run.

    python training/benchmarks/rivals/run.py --data DATA --out FILE.json

Groups: `full` (softmax over all items) and `sampled` compare with the rivals; `sources` and
`sources-sampled` compare all five sources with the ids; the `attention` ones compare ways to
compute it. All of a group's trainings are processes that take a fixed number of steps in turns
(A B C, C B A), the others waiting; each goes through its own loader, loop and optimizer, in one
thread. The rivals get virtual environments of their own.
"""

import json
import os
import shlex
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.rivals.contest import Ground, Racer, started, take_turns
from benchmarks.rivals.contestants import GROUPS, Shape
from benchmarks.rivals.environments import DEFAULT_VENVS, RivalError
from benchmarks.rivals.summary import Line, summarise, table
from benchmarks.rivals.windows import Exported, export_windows
from mmsr.bundle.files import write_json
from mmsr.bundle.terminal import run as run_app
from mmsr.training.dataset import open_dataset
from mmsr.training.machine import describe_machine
from mmsr.training.run import provenance

WARMUP_STEPS = 5
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def race(group: str, shape: Shape, ground: Ground, steps: int, rounds: int) -> list[Racer]:
    """Run one group in rounds of blocks of steps; the first steps of each process do not count."""
    with ExitStack() as running:
        racers = []
        for contestant in GROUPS[group]:
            say(f"{group}: {contestant.name} gets ready")
            racers.append(running.enter_context(started(contestant, shape, ground)))
        for racer in racers:
            racer.run(WARMUP_STEPS)
        for number, racer in take_turns(racers, steps, rounds):
            block = racer.blocks[-1]
            say(
                f"{group}: pass {number + 1} of {2 * rounds}, {racer.contestant.name}: "
                f"{block.windows / block.seconds:,.0f} windows/s, {block.seconds:.1f} s"
            )
    return racers


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)


def lines_of(racers: list[Racer]) -> list[Line]:
    """Sum a group up."""
    first = racers[0].blocks
    return [summarise(racer.contestant.name, racer.blocks, first) for racer in racers]


def record(racers: list[Racer]) -> list[dict[str, Any]]:
    """Return everything that was measured of a group."""
    return [
        {
            "contestant": asdict(racer.contestant),
            "about": racer.about,
            "blocks": [asdict(block) for block in racer.blocks],
            "summary": asdict(line),
        }
        for racer, line in zip(racers, lines_of(racers), strict=True)
    ]


def show(group: str, racers: list[Racer]) -> None:
    """Print a group's table."""
    print(f"\n{group}\n\n{table(lines_of(racers))}", flush=True)


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="prepared data")],
    out: Annotated[Path, typer.Option(help="file for everything measured", metavar="FILE.json")],
    group: Annotated[list[str] | None, typer.Option(help=f"of {', '.join(GROUPS)}")] = None,
    steps: Annotated[int, typer.Option(help="a block", min=1)] = 10,
    rounds: Annotated[int, typer.Option(help="of two passes, there and back", min=1)] = 3,
    venvs: Annotated[Path, typer.Option(help="folder of the rivals")] = DEFAULT_VENVS,
) -> None:
    """Measure, print one table a group, write FILE.json."""
    groups = group or list(GROUPS)
    unknown = [name for name in groups if name not in GROUPS]
    if unknown:
        raise RivalError(f"no group {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    shape, load = Shape(), os.getloadavg()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        windows = work / "windows.npz"
        exported = export_windows(open_dataset(data), shape.max_length, windows)
        require_within_epoch(exported, shape, steps, rounds)
        ground = Ground(data=data.resolve(), windows=windows, venvs=venvs.resolve(), work=work)
        print(heading(exported, shape))
        for name in groups:
            racers = race(name, shape, ground, steps, rounds)
            show(name, racers)
            results[name] = record(racers)
    write_json(
        out,
        {
            "command": shlex.join(["python", "training/benchmarks/rivals/run.py", *sys.argv[1:]]),
            "commit": provenance()["commit"],
            "machine": asdict(describe_machine()),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "load_average": {"before": load, "after": os.getloadavg()},
            "shape": asdict(shape),
            "data": asdict(exported),
            "steps": steps,
            "warmup_steps": WARMUP_STEPS,
            "groups": results,
        },
    )


def require_within_epoch(exported: Exported, shape: Shape, steps: int, rounds: int) -> None:
    """Raise `RivalError` if an epoch would end: MMSR's ends with a validation."""
    wanted, there_are = 1 + WARMUP_STEPS + 2 * rounds * steps, exported.windows // shape.batch_size
    if wanted > there_are:
        raise RivalError(
            f"{wanted} steps of each contestant, but an epoch of these data has {there_are}; "
            "give fewer --steps or --rounds"
        )


def heading(exported: Exported, shape: Shape) -> str:
    """Return what the tables are about."""
    return (
        f"{exported.windows:,} windows of at most {shape.max_length} items, "
        f"{exported.targets:,} targets, {exported.items:,} items; "
        f"{json.dumps(asdict(shape))}"
    )


if __name__ == "__main__":
    run_app(app)
