"""The exported sequence graph beside PyTorch, torch.compile, OpenVINO and a naive export.

    python export/benchmarks/sequence_graph.py --markdown export/results/sequence-graph.md

Same model, same histories, same threads, in turns; whoever answers other rows than PyTorch is not
timed. OpenVINO takes part where it is installed.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console

from benchmarks import contestants
from benchmarks.contestants import Answer, Model, Rows, Shape, make_model
from benchmarks.heading import command_line, commit, heading
from benchmarks.turns import Line, beside, take_turns
from mmsr.bundle.terminal import run as run_app
from mmsr.training.machine import describe_machine

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
EAGER = "PyTorch eager"
OURS, BARE = "MMSR graph", "bare"  # how their names begin
MIN_OVERLAP = 0.999  # with PyTorch's rows; equal scores may change places


def enter(made: Model, folder: Path, only: list[str], console: Console) -> dict[str, Answer]:
    """Return everybody who can take part here, PyTorch first; of the others those of `only`."""
    makers: dict[str, Callable[[], Answer]] = {
        EAGER: lambda: contestants.eager(made),
        "torch.compile": lambda: contestants.compiled(made),
        "ONNX Runtime, naive export": lambda: contestants.onnx_naive(made, folder),
        "OpenVINO f32, naive export": lambda: contestants.openvino_naive(made, folder),
        "MMSR graph, plain rows": lambda: contestants.exported(made, folder, False),
        "MMSR graph, folded rows": lambda: contestants.exported(made, folder, True),
        "MMSR graph, plain rows, OpenVINO": lambda: contestants.exported_openvino(
            made, folder, False
        ),
        "MMSR graph, folded rows, OpenVINO": lambda: contestants.exported_openvino(
            made, folder, True
        ),
        "bare MatMul+TopK, table constant": lambda: contestants.bare(made, folder, True),
        "bare MatMul+TopK, table input": lambda: contestants.bare(made, folder, False),
    }
    entered = {}
    for name, make in makers.items():
        if only and name != EAGER and not any(part in name for part in only):
            continue
        try:
            entered[name] = make()
        except ImportError as error:
            console.print(f"{name} takes no part: {error}")
    return entered


def check(entered: dict[str, Answer], history_BL: Rows) -> None:
    """Exit unless everybody gives PyTorch's rows (the bare ones are asked something else)."""
    wanted = entered[EAGER](history_BL)
    for name, answer in entered.items():
        if name.startswith("bare"):
            continue
        found = answer(history_BL)
        overlap = np.mean(
            [len(set(a) & set(b)) / len(a) for a, b in zip(wanted, found, strict=True)]
        )
        if overlap < MIN_OVERLAP:
            sys.exit(f"{name} gives other rows than PyTorch: overlap {overlap:.4f}")


def histories(shape: Shape, batch: int) -> Rows:
    """Return full histories [B, L] of random items."""
    random = np.random.default_rng([shape.seed, batch])
    return random.integers(1, shape.items + 1, (batch, shape.length))


def table(batch: int, lines: list[Line]) -> list[str]:
    """Return a Markdown table."""
    rows = [
        f"### Batch {batch}",
        "",
        "| | p50 ms | CPU ms | eager takes × as long [95 %] |",
        "|---|--:|--:|--:|",
    ]
    rows += [
        f"| {x.name} | {x.p50_ms:.3g} | {np.median(x.cpu_ms):.3g} "
        f"| {x.ratio:.2f} [{x.ratio_low:.2f}, {x.ratio_high:.2f}] |"
        for x in lines
    ]
    return [*rows, "", *beside_bare(lines)]


def beside_bare(lines: list[Line]) -> list[str]:
    """Return how many times as long our graphs take as the faster bare form, by wall and CPU."""
    bare = [line for line in lines if line.name.startswith(BARE)]
    if not bare:
        return []
    text = []
    for ours in (line for line in lines if line.name.startswith(OURS)):
        by_wall = beside(ours, min(bare, key=lambda line: float(np.median(line.wall_ms))))
        by_cpu = beside(ours, min(bare, key=lambda line: float(np.median(line.cpu_ms))))
        text.append(
            f"{ours.name}: {by_wall.wall:.2f} [{by_wall.wall_least:.2f}, {by_wall.wall_most:.2f}] "
            f"times the faster bare form; of CPU time {by_cpu.cpu:.2f} "
            f"[{by_cpu.cpu_least:.2f}, {by_cpu.cpu_most:.2f}]. Medians and ranges over the rounds."
        )
    return [*text, ""]


@app.command()
def main(  # noqa: PLR0913 (a command has as many parameters as flags)
    items: Annotated[int, typer.Option(min=100)] = Shape.items,
    width: Annotated[int, typer.Option(min=2)] = Shape.width,
    batch: Annotated[list[int], typer.Option(help="batch sizes")] = [1, 8, 32],  # noqa: B006
    threads: Annotated[int, typer.Option(min=1)] = Shape.threads,
    rounds: Annotated[int, typer.Option(min=3)] = 7,
    turn_s: Annotated[float, typer.Option(help="seconds of one turn", min=0.05)] = 0.5,
    only: Annotated[
        list[str] | None, typer.Option(help="a part of a name, beside PyTorch; repeat")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="write the tables there")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the numbers")] = None,
) -> None:
    """Time everybody at each batch size."""
    console = Console()
    head = heading(command_line())  # as it is now, not when it ends
    made_by = {"command": command_line(), "commit": commit(), "date": str(date.today())}
    torch.set_num_threads(threads)
    shape = Shape(items=items, width=width, threads=threads)
    made, found, text = make_model(shape), {}, []
    with tempfile.TemporaryDirectory() as folder:
        entered = enter(made, Path(folder), only or [], console)
        for size in batch:
            history_BL = histories(shape, size)
            check(entered, history_BL)
            calls = {name: partial(answer, history_BL) for name, answer in entered.items()}
            lines = take_turns(calls, rounds, turn_s)
            found[size] = [asdict(line) for line in lines]
            text += table(size, lines)
            console.print("\n".join(table(size, lines)), markup=False)
    if markdown is not None:
        said = f"{asdict(shape)}; {rounds} rounds of {turn_s} s a turn."
        markdown.write_text("\n".join([*head, "", said, "", *text]))
    if json_file is not None:
        numbers = {"shape": asdict(shape), "rounds": rounds, "turn_s": turn_s, "batches": found}
        whole = made_by | {"machine": asdict(describe_machine())} | numbers
        json_file.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    run_app(app)
