"""`mmsr-serve` beside LitServe, BentoML, Ray Serve and RePlay's compiled SASRec, in one run.

    python -m benchmarks.rivals.serving REPO... --out engine/results/DATE-rivals

Each REPO serves a bundle as `stable` (`export/benchmarks/untrained_bundle.py` makes one of any
size). Every server holds the same bundle, tables bound, in the same number of threads; every
answer is compared with the model's before anything is timed. Writes OUT.json and OUT.md.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console

from benchmarks.rivals.arena import Ground, contenders
from benchmarks.rivals.entrants import ECHO, ENTRANTS, RIVALS
from benchmarks.rivals.report import Result, to_markdown
from benchmarks.rivals.rounds import CONCURRENCIES, Record, closed_loops, searches
from benchmarks.rivals.runner_alone import AloneLine, compare
from benchmarks.rivals.tables import alone_sheet, goal_sentence, rich_table, servers_sheet
from benchmarks.rivals.tally import Measured, tally
from benchmarks.rivals.venvs import DEFAULT_VENVS, ROOT, pinned, python_of
from benchmarks.rivals.verdicts import found
from mmsr.bundle.files import write_json
from mmsr.bundle.manifest import load_manifest
from mmsr.bundle.repository import Repository
from mmsr.bundle.terminal import run as run_app
from mmsr.engine.bench.machine import describe_environment
from mmsr.engine.config import default_threads

TIMED = {"litserve": "litserve", "bentoml": "bentoml", "ray": "ray", "replay": "replay-rec"}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured of each bundle."""

    rounds: int
    passes: int
    seconds: float  # a block


def ground_of(repository: Path, venvs: Path, work: Path) -> Ground:
    """Look at what a repository serves."""
    bundle = Repository(repository).resolve("stable")
    return Ground(
        repository=repository.resolve(),
        bundle=bundle.resolve(),
        venvs=venvs.resolve(),
        work=work,
        max_length=load_manifest(bundle).max_length,
        threads=default_threads(),
    )


async def race(ground: Ground, effort: Effort) -> tuple[list[Record], dict[str, str]]:
    """Measure all servers with one bundle; return also who was left out, and why."""
    async with contenders(ENTRANTS, ground) as ready:
        records = [Record(contender=one) for one in ready.contenders]
        await closed_loops(records, effort.rounds, effort.seconds, CONCURRENCIES)
        searched = [record for record in records if record.contender.entrant is not ECHO]
        await searches(searched, effort.passes, effort.seconds)
    return records, ready.left_out


def measured_of(record: Record) -> Measured:
    """Take out of a record what is summed up."""
    return Measured(
        name=record.contender.entrant.name,
        closed=record.closed,
        rates_per_s=[one.search.held_per_s for one in record.searches],
        at_rate=record.searches[-1].held() if record.searches else None,
    )


def raw(record: Record) -> dict[str, Any]:
    """Return every block of a record in numbers."""
    return {
        "name": record.contender.entrant.name,
        "settings": record.contender.entrant.about,
        "closed": {
            str(c): [asdict(found(block)) for block in blocks]
            for c, blocks in record.closed.items()
        },
        "searches": [
            {
                "held_per_s": one.search.held_per_s,
                "uncounted": one.uncounted,
                "probes": [
                    {"rate_per_s": block.plan.rate_per_s, "others_share": block.others_share}
                    | asdict(found(block))
                    for block in one.blocks
                ],
            }
            for one in record.searches
        ],
    }


def measure(ground: Ground, effort: Effort) -> tuple[Result, dict[str, Any]]:
    """Measure one bundle; return what the report shows and everything behind it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        records, left_out = runner.run(race(ground, effort))
    alone: list[AloneLine] = compare(ground, effort.rounds, effort.seconds / 3)
    manifest = load_manifest(ground.bundle)
    sizes = manifest.tables
    title = f"{sizes.items:,} items, width {sizes.output_width}"
    lines = tally([measured_of(record) for record in records])
    result = Result(
        title=title,
        bundle_id=manifest.bundle_id,
        lines=lines,
        alone=alone,
        goal=goal_sentence(lines, [rival.name for rival in RIVALS]),
        left_out=left_out,
        uncounted=sum(one.uncounted for record in records for one in record.searches),
    )
    behind = {
        "title": title,
        "bundle_id": manifest.bundle_id,
        "model": manifest.model,
        "servers": [raw(record) for record in records],
        "summary": [asdict(line) for line in lines],
        "runner_alone": [asdict(line) for line in alone],
        "goal": result.goal,
        "left_out": left_out,
    }
    return result, behind


def show(console: Console, result: Result) -> None:
    """Print the tables of one bundle."""
    console.print(rich_table(servers_sheet(result.title, result.lines)))
    console.print(rich_table(alone_sheet(f"Runners alone, {result.title}", result.alone)))
    for name, reason in result.left_out.items():
        console.print(f"left out: {name} ({reason})")
    console.print(result.goal)


def as_json(found: Mapping[str, Any]) -> Any:
    """Return what JSON can hold of it: what is infinite (nothing was answered) becomes null."""
    return json.loads(json.dumps(found), parse_constant=lambda _: None)


def commit_of(root: Path) -> str:
    """Return the commit that is measured."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


@app.command()
def main(
    repositories: Annotated[list[Path], typer.Argument(help="each serves a bundle as `stable`")],
    out: Annotated[Path, typer.Option(help="the report, without its .json and .md")],
    rounds: Annotated[int, typer.Option(help="of two passes, there and back", min=1)] = 1,
    passes: Annotated[int, typer.Option(help="searches of the highest rate", min=0)] = 2,
    seconds: Annotated[float, typer.Option(help="a block", min=0.5)] = 2.5,
    venvs: Annotated[Path, typer.Option(help="folder of the rivals")] = DEFAULT_VENVS,
) -> None:
    """Measure, print, write the report."""
    effort = Effort(rounds=rounds, passes=passes, seconds=seconds)
    for name in TIMED:
        python_of(name, venvs)  # before anything is timed
    environment, load = describe_environment(), os.getloadavg()
    results, behind = [], []
    # As many columns as the table needs, also where the output is a file.
    console = Console(width=None if sys.stdout.isatty() else 200)
    for repository in repositories:
        with tempfile.TemporaryDirectory(prefix="riv", ignore_cleanup_errors=True) as work:
            ground = ground_of(repository, venvs, Path(work))
            result, everything = measure(ground, effort)
        show(console, result)
        results.append(result)
        behind.append(everything)
    facts = {
        "environment": environment.to_json(),
        "commit": commit_of(ROOT),
        "load_average": {"before": load, "after": os.getloadavg()},
        "settings": asdict(effort),
        "rivals": {name: pinned(name)[package] for name, package in TIMED.items()},
        "pins": {name: pinned(name) for name in TIMED},
    }
    write_json(out.with_suffix(".json"), as_json({**facts, "sizes": behind}))
    out.with_suffix(".md").write_text(to_markdown(facts, results), encoding="utf-8")
    console.print(f"written: {out}.json, {out}.md")


if __name__ == "__main__":
    run_app(app)
