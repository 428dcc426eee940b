"""Scoring in int8 with exact re-ranking beside scoring in fp32: states in, the best rows out.

    python export/benchmarks/scoring_precision.py --markdown export/results/scoring-precision.md

The end of the sequence graph alone, as it is exported (filters, top-K), by the runner that serves,
tables bound once, in turns. Whoever answers other rows than fp32 is not timed.
"""

# B batch, C table rows, D width, K results

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import onnx
import typer
from onnx import TensorProto, helper

from benchmarks.heading import command_line, commit, heading
from benchmarks.turns import Line, beside, take_turns
from mmsr.bundle.terminal import run as run_app
from mmsr.engine.items import bound_rows
from mmsr.engine.probe_answers import outside
from mmsr.engine.quantise import bind_outputs
from mmsr.engine.runners.base import Runner
from mmsr.engine.runners.onnx import open_onnx
from mmsr.export.forms import decide_form
from mmsr.export.int8_scoring import write_int8_scoring
from mmsr.export.onnx_file import OPSET, describe
from mmsr.export.scoring_tail import append_scoring
from mmsr.training.machine import describe_machine

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
K = 20
CATALOGUES = [12_000, 100_000, 1_000_000]  # items
EXCLUDED = 50  # rows of a request, as a history of that length
MIN_OVERLAP = 0.999  # of int8's rows with fp32's; equal scores may change places

Batch = dict[str, npt.NDArray[Any]]


def write_graphs(width: int, items: int, folder: Path) -> dict[str, Path]:
    """Write what follows the state in the sequence graph, in both precisions."""
    paths = {name: folder / f"{name}.onnx" for name in ("fp32", "int8")}
    state, states = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", width])
        for name in ("state", "states")
    )
    graph = helper.make_graph(
        [helper.make_node("Identity", ["state"], ["states"])], "scoring", [state], [states]
    )
    opset = helper.make_opsetid("", OPSET)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), paths["fp32"])
    append_scoring(paths["fp32"], chunked=decide_form(bound_rows(items)).chunked)
    write_int8_scoring(paths["fp32"], paths["int8"])
    return paths


def open_bound(path: Path, outputs_CD: npt.NDArray[np.float32], threads: int) -> Runner:
    """Return the runner with its tables bound."""
    runner = open_onnx(path, describe(path), threads=threads)
    bind_outputs(runner, outputs_CD)
    return runner


def batch_of(size: int, items: int, width: int) -> Batch:
    """Return random states, each with rows that it must not have."""
    random = np.random.default_rng([size, items, width])
    return {
        "state": random.normal(size=(size, width)).astype(np.float32),
        "excluded": np.concatenate(
            [random.integers(0, items, (size, EXCLUDED)), outside(size, items)], axis=1
        ),
        "k": np.array([K]),
    }


def overlap(runners: dict[str, Runner], batch: Batch) -> float:
    """Return the share of fp32's rows that int8 has."""
    wanted, found = (runners[name].run(batch)["rows"].tolist() for name in ("fp32", "int8"))
    pairs = zip(wanted, found, strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in pairs]))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One size and batch: fp32 first, then int8."""

    items: int
    batch: int
    overlap: float  # of int8's rows with fp32's
    lines: list[Line]

    def row(self) -> str:
        """Return its line of the table."""
        fp32, int8 = self.lines
        by_cpu = beside(fp32, int8)
        p50, cpu = (
            " | ".join(f"{value:.3g}" for value in values)
            for values in (
                (fp32.p50_ms, int8.p50_ms),
                (float(np.median(fp32.cpu_ms)), float(np.median(int8.cpu_ms))),
            )
        )
        return (
            f"| {self.items:,} | {self.batch} | {self.overlap:.4f} | {p50} | {cpu} "
            f"| {int8.ratio:.2f} [{int8.ratio_low:.2f}, {int8.ratio_high:.2f}] "
            f"| {by_cpu.cpu:.2f} [{by_cpu.cpu_least:.2f}, {by_cpu.cpu_most:.2f}] |"
        )


def measure(count: int, width: int, batches: list[int], how: tuple[int, int, float]) -> list[Cell]:
    """Time both graphs on one catalogue; `how`: threads, rounds, seconds of a turn."""
    threads, rounds, turn_s = how
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_graphs(width, count, Path(folder))
        table = np.random.default_rng(count).normal(size=(bound_rows(count), width))
        outputs_CD = table.astype(np.float32)
        runners = {name: open_bound(path, outputs_CD, threads) for name, path in paths.items()}
        for size in batches:
            asked = batch_of(size, count, width)
            same = overlap(runners, asked)
            if same < MIN_OVERLAP:
                sys.exit(f"int8 gives other rows than fp32: overlap {same:.4f}")
            calls: dict[str, Callable[[], object]] = {
                name: partial(runner.run, asked) for name, runner in runners.items()
            }
            lines = take_turns(calls, rounds, turn_s)
            cells.append(Cell(items=count, batch=size, overlap=same, lines=lines))
            typer.echo(cells[-1].row())
        for runner in runners.values():
            runner.close()
    return cells


def report(head: list[str], setting: dict[str, Any], cells: list[Cell]) -> Iterator[str]:
    """Yield the lines of the report."""
    yield f"# Scoring in int8 with exact re-ranking beside fp32, width {setting['width']}"
    yield ""
    yield from head
    yield ""
    load = " and ".join(f"{setting[when]:.1f}" for when in ("load_before", "load_after"))
    yield "From states to the best rows: the end of the sequence graph as it is exported,"
    yield f"{EXCLUDED} rows excluded, K = {K}, threads: {setting['threads']}, in turns, there and"
    yield f"back, {setting['rounds']} rounds. Load average of the machine before and after: {load};"
    others = "beyond the threads that are timed it is others' work"
    yield f"{others}: read the ratios, not the milliseconds."
    yield "They are of one round each; by the clock the median with its 95 % interval, of CPU time"
    yield "(all threads) the median and the range. Above 1: int8 is faster."
    yield ""
    yield (
        "| items | batch | overlap | fp32 p50 ms | int8 | fp32 CPU ms | int8 "
        "| fp32 / int8 by the clock | of CPU time |"
    )
    yield "|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    yield from (cell.row() for cell in cells)
    yield ""


@app.command()
def main(  # noqa: PLR0913 (a command has as many parameters as flags)
    items: Annotated[list[int], typer.Option(help="catalogue sizes")] = CATALOGUES,
    width: Annotated[int, typer.Option(min=2)] = 64,
    batch: Annotated[list[int], typer.Option(help="batch sizes")] = [1, 8, 32],  # noqa: B006
    threads: Annotated[int, typer.Option(min=1)] = 1,
    rounds: Annotated[int, typer.Option(min=3)] = 7,
    turn_s: Annotated[float, typer.Option(help="seconds of one turn", min=0.05)] = 0.2,
    markdown: Annotated[Path | None, typer.Option(help="write the report there")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the numbers")] = None,
) -> None:
    """Print, for each size, how many times as long fp32 takes as int8."""
    head, known = heading(command_line()), {"command": command_line(), "commit": commit()}
    setting: dict[str, Any] = {"width": width, "threads": threads, "k": K, "rounds": rounds}
    setting["load_before"] = os.getloadavg()[0]
    cells = [
        cell for count in items for cell in measure(count, width, batch, (threads, rounds, turn_s))
    ]
    setting["load_after"] = os.getloadavg()[0]
    if markdown is not None:
        markdown.write_text("\n".join(report(head, setting, cells)))
    if json_file is not None:
        machine = asdict(describe_machine())
        found = {**known, **setting, "results": [asdict(cell) for cell in cells]}
        json_file.write_text(json.dumps({**found, "machine": machine}, indent=1) + "\n")


if __name__ == "__main__":
    run_app(app)
