"""What batching is worth at a million items: goodput with it over goodput without.

    python -m benchmarks.batching REPO --json engine/results/DATE-batching.json

Two servers of the same bundle, one with `--max-batch 1`, are asked in turns at the same Poisson
rate, above what either can do; each request has a deadline, and goodput is the answers a second
that came within it. Goal: at least 3.
"""

import asyncio
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from benchmarks.null_server import facts
from benchmarks.rivals.arena import contenders
from benchmarks.rivals.entrants import MMSR
from benchmarks.rivals.load import Block, Plan
from benchmarks.rivals.rounds import Record, closed_loops, tell
from benchmarks.rivals.serving import as_json, ground_of
from benchmarks.rivals.tables import Sheet, rich_table
from benchmarks.rivals.venvs import DEFAULT_VENVS
from benchmarks.rivals.verdicts import Spread, ratio, spread
from mmsr.bundle.files import write_json
from mmsr.bundle.terminal import run as run_app

GOAL = 3.0
WITH = replace(MMSR, name="batching on")
WITHOUT = replace(MMSR, name="batching off", arguments=("--max-batch", "1"))
CALLERS = 64  # of the closed loop that finds out what there is to be had
ABOVE = 1.5  # times that rate is offered
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, kw_only=True)
class Worth:
    """Goodput of both, pass by pass."""

    offered_per_s: float
    deadline_ms: float
    goodput_per_s: dict[str, Spread]
    closed_per_s: dict[str, Spread]
    ratio: Spread  # of goodput
    closed_ratio: Spread

    def sentence(self) -> str:
        """Say it, with the goal."""
        verdict = "reached" if self.ratio.median >= GOAL else "missed"
        return (
            f"Goodput with batching over without, {self.offered_per_s:,.0f}/s offered, deadline "
            f"{self.deadline_ms:g} ms: {self.ratio.text(2)} (goal {GOAL:g}: {verdict}); closed "
            f"loop of {CALLERS}: {self.closed_ratio.text(2)}."
        )


async def race(
    repository: Path, effort: tuple[int, float], deadline_ms: float
) -> tuple[list[Record], dict[str, list[Block]], float]:
    """Run the closed loops, then both at the rate that follows from them."""
    rounds, seconds = effort
    with tempfile.TemporaryDirectory(prefix="mmsr-batch-", ignore_cleanup_errors=True) as work:
        ground = ground_of(repository, DEFAULT_VENVS, Path(work))
        ground = replace(ground, timeout_s=deadline_ms / 1e3)
        async with contenders((WITH, WITHOUT), ground) as ready:
            records = [Record(contender=one) for one in ready.all()]
            await closed_loops(records, rounds, seconds, (CALLERS,))
            rate = ABOVE * max(b.per_s for r in records for b in r.closed[CALLERS])
            found: dict[str, list[Block]] = {r.contender.entrant.name: [] for r in records}
            for number in range(2 * rounds):
                for record in records if number % 2 == 0 else reversed(records):
                    plan = Plan(rate_per_s=rate, duration_s=seconds, seed=number)
                    block = await record.contender.block(plan)
                    found[record.contender.entrant.name].append(block)
                    tell(record, f"{rate:,.0f}/s offered", block)
    return records, found, rate


def judge(
    records: list[Record], found: dict[str, list[Block]], rate: float, deadline_ms: float
) -> Worth:
    """Sum up."""
    good = {name: [block.per_s for block in blocks] for name, blocks in found.items()}
    closed = {r.contender.entrant.name: [b.per_s for b in r.closed[CALLERS]] for r in records}
    return Worth(
        offered_per_s=rate,
        deadline_ms=deadline_ms,
        goodput_per_s={name: spread(values) for name, values in good.items()},
        closed_per_s={name: spread(values) for name, values in closed.items()},
        ratio=ratio(good[WITH.name], good[WITHOUT.name]),
        closed_ratio=ratio(closed[WITH.name], closed[WITHOUT.name]),
    )


@app.command()
def main(
    repository: Annotated[Path, typer.Argument(help="serves a bundle of a million items")],
    rounds: Annotated[int, typer.Option(help="of two passes, there and back", min=1)] = 2,
    seconds: Annotated[float, typer.Option(help="a block", min=0.5)] = 4.0,
    deadline_ms: Annotated[float, typer.Option(help="of each request", min=1)] = 2000.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the numbers")] = None,
) -> None:
    """Measure, print, write."""
    known = facts()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        records, found, rate = runner.run(race(repository, (rounds, seconds), deadline_ms))
    worth = judge(records, found, rate, deadline_ms)
    heads = ["", "goodput/s", f"answers/s, closed loop of {CALLERS}"]
    rows = [
        [name, worth.goodput_per_s[name].text(1), worth.closed_per_s[name].text(1)]
        for name in worth.goodput_per_s
    ]
    console = Console()
    console.print(rich_table(Sheet("Batching", heads, rows)))
    console.print(worth.sentence())
    if json_file is not None:
        write_json(json_file, as_json({**known, "worth": asdict(worth)}))


if __name__ == "__main__":
    run_app(app)
