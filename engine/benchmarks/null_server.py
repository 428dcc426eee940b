"""What the server costs without a model: a null runner beside the best bare gRPC echo.

    python -m benchmarks.null_server REPO --json engine/results/DATE-null-server.json

All parse the same requests and serialise answers of as many items, in one process each. Goals:
at least 0.8 times the echo's answers a second, at most 0.3 ms added to its p50 at one at once.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console

from benchmarks.rivals.arena import contenders
from benchmarks.rivals.entrants import Entrant
from benchmarks.rivals.rounds import Record, closed_loops
from benchmarks.rivals.serving import as_json, commit_of, ground_of
from benchmarks.rivals.tables import Sheet, rich_table
from benchmarks.rivals.tally import Line, Measured, tally
from benchmarks.rivals.venvs import DEFAULT_VENVS, ROOT
from benchmarks.rivals.verdicts import Spread, spread
from mmsr.bundle.files import write_json
from mmsr.bundle.terminal import run as run_app
from mmsr.engine.bench.machine import describe_environment

RATE_GOAL, ADDED_GOAL_MS = 0.8, 0.3
BUSY = 64  # callers
NULL = Entrant(
    name="mmsr-serve, null runner", module="benchmarks.rivals.serve_null", answers_by_model=False
)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def echo(way: str) -> Entrant:
    """Return a bare echo that serves in some way."""
    return Entrant(
        name=f"echo, {way}",
        module="benchmarks.rivals.serve_echo",
        arguments=(way,),
        answers_by_model=False,
    )


ENTRANTS = (NULL, *map(echo, ("aio", "uvloop", "threaded")))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How the null server stands to the best echo, pass by pass."""

    best: str  # by answers a second at BUSY
    quickest: str  # by p50 at one at once
    rate: Spread  # ours over the best's
    cpu_rate: Spread  # the same per second of server CPU time
    added_ms: Spread  # to the quickest's p50 at one at once
    added_cpu_ms: float  # server CPU of an answer, at BUSY

    def sentence(self) -> str:
        """Say it, with the goals."""
        rate = "reached" if self.rate.median >= RATE_GOAL else "missed"
        added = "reached" if self.added_ms.median <= ADDED_GOAL_MS else "missed"
        return (
            f"Answers/s at {BUSY} at once: {self.rate.text(2)} of {self.best}'s, by server CPU "
            f"time {self.cpu_rate.text(2)} (goal {RATE_GOAL:g}: {rate}). Added p50 at 1 at once: "
            f"{self.added_ms.text(2)} ms over {self.quickest} (goal {ADDED_GOAL_MS:g}: {added}); "
            f"added server CPU: {self.added_cpu_ms:.2f} ms an answer."
        )


def judge(measured: Sequence[Measured]) -> Verdict:
    """Compare the first with the best of the others."""
    ours, *echoes = measured
    best = max(echoes, key=lambda one: median(block.per_s for block in one.closed[BUSY]))
    quickest = min(echoes, key=lambda one: median(_p50s_ms(one)))
    pairs = list(zip(ours.closed[BUSY], best.closed[BUSY], strict=True))
    cpus = [(a.server_cpu_s / a.all_answers, b.server_cpu_s / b.all_answers) for a, b in pairs]
    added = zip(_p50s_ms(ours), _p50s_ms(quickest), strict=True)
    return Verdict(
        best=best.name,
        quickest=quickest.name,
        rate=spread([a.per_s / b.per_s for a, b in pairs]),
        cpu_rate=spread([b / a for a, b in cpus]),
        added_ms=spread([a - b for a, b in added]),
        added_cpu_ms=1e3 * median(a - b for a, b in cpus),
    )


def _p50s_ms(one: Measured) -> list[float]:
    return [1e3 * median(block.latency_s) for block in one.closed[1]]


def sheet(title: str, lines: Sequence[Line]) -> Sheet:
    """Return the table."""
    heads = ["", "p50 at 1, ms", "answers/s at 1", f"answers/s at {BUSY}", "p99, ms"]
    heads += ["server CPU, ms/answer", "client CPU, ms/answer", "others' share"]
    rows = [
        [
            line.name,
            line.p50_ms[1].text(2),
            line.per_s[1].text(0),
            line.per_s[BUSY].text(0),
            line.p99_ms[BUSY].text(1),
            line.server_cpu_ms.text(3),
            line.client_cpu_ms.text(3),
            f"{line.others_share.median:.0%}",
        ]
        for line in lines
    ]
    return Sheet(title, heads, rows)


async def race(
    repository: Path, entrants: Sequence[Entrant], loads: tuple[int, ...], effort: tuple[int, float]
) -> list[Measured]:
    """Run closed loops of all entrants there and back."""
    with tempfile.TemporaryDirectory(prefix="mmsr-null-", ignore_cleanup_errors=True) as work:
        ground = ground_of(repository, DEFAULT_VENVS, Path(work))
        async with contenders(entrants, ground) as ready:
            records = [Record(contender=one) for one in ready.all()]
            await closed_loops(records, *effort, loads)
    return [Measured(name=r.contender.entrant.name, closed=r.closed) for r in records]


def facts() -> dict[str, Any]:
    """Return what a reader must know of the run."""
    return {"environment": describe_environment().to_json(), "commit": commit_of(ROOT)}


@app.command()
def main(
    repository: Annotated[Path, typer.Argument(help="serves any bundle as `stable`")],
    rounds: Annotated[int, typer.Option(help="of two passes, there and back", min=1)] = 2,
    seconds: Annotated[float, typer.Option(help="a block", min=0.5)] = 2.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the numbers")] = None,
) -> None:
    """Measure, print, write."""
    known = facts()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        measured = runner.run(race(repository, ENTRANTS, (1, BUSY), (rounds, seconds)))
    lines, verdict = tally(measured), judge(measured)
    console = Console()
    console.print(rich_table(sheet("The server without a model", lines)))
    console.print(verdict.sentence())
    if json_file is not None:
        found = {"lines": [asdict(line) for line in lines], "verdict": asdict(verdict)}
        write_json(json_file, as_json({**known, **found}))


if __name__ == "__main__":
    run_app(app)
