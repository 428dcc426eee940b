"""What exact filters cost: the same requests with each filter beside requests without any.

    python engine/benchmarks/filters.py --markdown engine/results/filters.md

A bundle with random tables is made and opened as a server opens it; a category name says which
share of the items has it. Whole calls of `SequenceModel.recommend`, in turns, there and back; the
ratio of each to the plain requests of the same round, of wall time and of CPU time.
"""

# N items, B requests of a batch, R rounds, D width

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import typer

from benchmarks.random_bundle import Shape, write_bundle
from mmsr.bundle.terminal import run as run_app
from mmsr.engine.model import RowRequest, SequenceModel, open_model

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
K = 20
DENIED = 1000  # rows
PLAIN = "no filter but seen and availability"
SHARES = (0.5, 0.1, 0.02, 0.001)  # of the items that have the category of that name
ALLOWED = (100, 10_000)  # rows
MIN_CALLS = 3
Batch = Sequence[RowRequest]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One kind of request beside plain ones; medians over the rounds of the rounds' ratios."""

    name: str
    wall_p50_ms: float
    wall: float
    wall_least: float
    wall_most: float
    cpu: float
    cpu_least: float
    cpu_most: float


def kinds(model: SequenceModel, shape: Shape, batch: int) -> dict[str, Batch]:
    """Return batches that differ in their filters alone, the plain one first."""
    random = np.random.default_rng([shape.items, batch])
    histories = random.integers(1, shape.items + 1, (batch, shape.length)).tolist()
    denied = random.integers(1, shape.items + 1, (batch, DENIED)).tolist()
    plain = [RowRequest(history, history, K) for history in histories]
    found: dict[str, Batch] = {PLAIN: plain}
    longer = [
        request._replace(excluded=[*request.excluded, *rows])
        for request, rows in zip(plain, denied, strict=True)
    ]
    found[f"{DENIED} denied"] = longer
    filter_of = model.filters.categories.filter_of
    for share in SHARES:
        wanted = filter_of([f"{share:g}"], [])
        name = f"{DENIED} denied, category of {100 * share:g} % of the items"
        found[name] = [request._replace(categories=wanted) for request in longer]
    wanted = filter_of([], [f"{SHARES[1]:g}"])
    found[f"{DENIED} denied, without a category of {100 * SHARES[1]:g} %"] = [
        request._replace(categories=wanted) for request in longer
    ]
    for size in ALLOWED:
        rows = random.choice(shape.items, min(size, shape.items), replace=False) + 1
        found[f"{size} allowed"] = [r._replace(allowed=rows.tolist()) for r in plain]
    found["also what is not available"] = [r._replace(only_available=False) for r in plain]
    return found


def take_turns(calls: Mapping[str, Callable[[], object]], rounds: int, turn_s: float) -> list[Line]:
    """Time every call for about `turn_s` a turn, two turns a round (A B ... B A)."""
    for call in calls.values():
        call()
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for name in [*calls, *reversed(list(calls))]:
            taken[name] += _times(calls[name], turn_s)
        for name, times in taken.items():
            wall[name].append(float(np.median([one for one, _ in times])))
            cpu[name].append(float(np.median([one for _, one in times])))
    return [_line(name, wall, cpu) for name in calls]


def _times(call: Callable[[], object], turn_s: float) -> list[tuple[float, float]]:
    """Return the wall and CPU seconds of some calls, after one that meets the caches of others."""
    call()
    times: list[tuple[float, float]] = []
    end_s = time.perf_counter() + turn_s
    while len(times) < MIN_CALLS or time.perf_counter() < end_s:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        call()
        times.append((time.perf_counter() - wall_s, time.process_time() - cpu_s))
    return times


def _line(name: str, wall: Mapping[str, list[float]], cpu: Mapping[str, list[float]]) -> Line:
    first = next(iter(wall))
    wall_R = np.array(wall[name]) / np.array(wall[first])
    cpu_R = np.array(cpu[name]) / np.array(cpu[first])
    return Line(
        name=name,
        wall_p50_ms=1e3 * float(np.median(wall[name])),
        wall=float(np.median(wall_R)),
        wall_least=float(wall_R.min()),
        wall_most=float(wall_R.max()),
        cpu=float(np.median(cpu_R)),
        cpu_least=float(cpu_R.min()),
        cpu_most=float(cpu_R.max()),
    )


def table(batch: int, lines: list[Line]) -> list[str]:
    """Return a Markdown table."""
    rows = [
        f"### Batch {batch}",
        "",
        "| requests | p50 ms | wall, times plain [range] | CPU, times plain [range] |",
        "|---|--:|--:|--:|",
    ]
    rows += [
        f"| {x.name} | {x.wall_p50_ms:.3g} | {x.wall:.2f} [{x.wall_least:.2f}, {x.wall_most:.2f}] "
        f"| {x.cpu:.2f} [{x.cpu_least:.2f}, {x.cpu_most:.2f}] |"
        for x in lines
    ]
    return [*rows, ""]


def describe_machine(threads: int) -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": os.getloadavg(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
    }


@app.command()
def main(  # noqa: PLR0913 (a command has as many parameters as flags)
    items: Annotated[int, typer.Option(min=2000)] = Shape.items,
    batch: Annotated[list[int], typer.Option(help="batch sizes")] = [1, 8, 32],  # noqa: B006
    threads: Annotated[int, typer.Option(min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=3)] = 7,
    turn_s: Annotated[float, typer.Option(help="seconds of one turn", min=0.01)] = 0.2,
    markdown: Annotated[Path | None, typer.Option(help="write the tables there")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the numbers")] = None,
) -> None:
    """Time requests with filters beside the same ones without."""
    shape, text, found = Shape(items=items), [], {}
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(Path(folder) / "bundle", shape, SHARES)
        model = open_model(Path(folder) / "bundle", threads=threads)
        for size in batch:
            asked = kinds(model, shape, size)
            calls = {name: partial(model.recommend, some) for name, some in asked.items()}
            lines = take_turns(calls, rounds, turn_s)
            found[size] = [asdict(line) for line in lines]
            text += table(size, lines)
            typer.echo("\n".join(table(size, lines)))
        model.close()
    machine = describe_machine(threads)
    if markdown is not None:
        head = f"Date: {date.today()}. Machine: {machine}. {asdict(shape)}; {rounds} rounds."
        markdown.write_text("\n".join([head, "", *text]))
    if json_file is not None:
        whole = {"shape": asdict(shape), "machine": machine, "rounds": rounds, "batches": found}
        json_file.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    run_app(app)
