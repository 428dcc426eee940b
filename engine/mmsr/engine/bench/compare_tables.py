"""Shows a comparison in a terminal. Decides nothing."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from mmsr.engine.bench.compare import Compared, CompareReport, Ratio
from mmsr.engine.bench.tables import (
    NOT_ENOUGH,
    bounds,
    number,
    print_environment,
    print_lines,
    short,
    table,
)


def print_comparison(console: Console, report: CompareReport) -> None:
    """Print a table of ratios for each load that both have."""
    print_environment(console, report.environment)
    print_lines(console, [_side("A", report.a), _side("B", report.b)])
    for run in report.runs:
        console.print(table(_title(run), HEADINGS, [row(ratio) for ratio in run.ratios]))
    print_lines(console, _lines(report))


HEADINGS = ("", "A", "B", "B / A", "95 %", "verdict")


def _side(name: str, side: Mapping[str, Any]) -> str:
    return (
        f"{name}: {side['name']}, bundle {side['bundle_id']}, "
        f"commit {side['commit'] or 'unknown'}, {side['time']}"
    )


def _title(run: Compared) -> str:
    return f"{run.name} ({run.blocks_a} and {run.blocks_b} seconds)"


def row(ratio: Ratio) -> list[str]:
    """Return the cells of one ratio, on a terminal and on a page."""
    return [
        ratio.metric,
        short(ratio.a),
        short(ratio.b),
        number(ratio.ratio, 3),
        bounds(ratio.bounds),
        verdict(ratio),
    ]


def verdict(ratio: Ratio) -> str:
    """Return what a ratio says: "worse" or "better" only where the whole interval agrees."""
    if ratio.regression:
        return "REGRESSION"
    if ratio.bounds is None or ratio.worse_by is None:
        return NOT_ENOUGH
    low, high = ratio.bounds
    if low <= 1 and (high is None or high >= 1):
        return "no difference seen"
    return "worse" if ratio.worse_by > 0 else "better"


def _lines(report: CompareReport) -> list[str]:
    lines = [
        f"Regression: worse by more than {report.max_regression:.0%} over the whole interval. "
        "Intervals: by drawing the seconds of both sides anew."
    ]
    if any(report.a[fact] != report.b[fact] for fact in ("processor", "cores")):
        lines.append("Note: the two were measured on different machines.")
    if report.void:
        lines.append("VOID runs were left out: the generator was late in them.")
    if report.interrupted:
        lines.append("Interrupted: this is what was measured so far.")
    return lines
