"""`mmsr-bench compare`, without its flags: two reports as ratios with intervals. Pure numbers.

A ratio's interval comes from drawing the seconds of both sides anew. Worse than the limit is only
what is so over the whole interval: a noisy measurement accuses nobody, it has to be made longer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmsr.bundle.files import read_json
from mmsr.engine.bench.blocks import (
    Block,
    Counted,
    Interval,
    Values,
    count_blocks,
    middle,
)
from mmsr.engine.bench.latency import needed_samples
from mmsr.engine.bench.machine import Environment
from mmsr.engine.bench.plan import BenchError
from mmsr.engine.bench.report import REPORT_FORMAT

SIDES_SEED = 11, 12  # the two sides are drawn independently
RATES = ("good/s", "answers/s")
Statistic = Callable[[Counted, Values], Values]
STATISTICS: dict[str, Statistic] = {
    "good/s": lambda counted, weights: counted.goodput(weights),
    "answers/s": lambda counted, weights: counted.rates(weights),
    "p50 ms": lambda counted, weights: counted.quantiles(weights, 0.5),
    "p90 ms": lambda counted, weights: counted.quantiles(weights, 0.9),
    "p99 ms": lambda counted, weights: counted.quantiles(weights, 0.99),
}
SHARES = {"p50 ms": 0.5, "p90 ms": 0.9, "p99 ms": 0.99}


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One number of B over that of A."""

    metric: str
    a: float | None  # None: among the failed, or too few samples
    b: float | None
    ratio: float | None
    bounds: Interval | None  # 95 %
    worse_by: float | None  # of the ratio: 0.1 is a tenth slower, or a tenth fewer
    regression: bool  # worse than the limit, over the whole interval


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One load (or combination) that both sides have."""

    name: str
    blocks_a: int
    blocks_b: int
    ratios: list[Ratio]


@dataclass(frozen=True, kw_only=True)
class CompareReport:
    """Everything that two reports have in common."""

    scenario: str = "compare"
    environment: Environment
    a: dict[str, Any]  # what each side is: file or target, command, commit, bundle
    b: dict[str, Any]
    max_regression: float
    runs: list[Compared]
    interrupted: bool = False
    void: bool = False
    load_runs: Sequence[Any] = ()  # of a live comparison, in the order in which they were made
    order: Sequence[str] = ()  # which side each of them is of: A, B, B, A, …

    @property
    def regressed(self) -> bool:
        """Tell whether anything is worse than the limit."""
        return any(ratio.regression for run in self.runs for ratio in run.ratios)


def read_report(path: Path) -> dict[str, Any]:
    """Read a report's JSON; `BenchError` if it is none, or of another format."""
    raw: dict[str, Any] = read_json(path, "a report of mmsr-bench")
    if raw.get("format") != REPORT_FORMAT or not isinstance(raw.get("runs"), list):
        raise BenchError(
            f"{path} is of format {raw.get('format')!r}; expected a report of mmsr-bench, "
            f"format {REPORT_FORMAT}, of server, slo, overload, reload or engine"
        )
    return raw


def blocks_by_name(report: Mapping[str, Any]) -> dict[str, list[Block]]:
    """Return the blocks of a report's runs by what was run; equal loads are pooled.

    Runs that are void do not count.
    """
    found: dict[str, list[Block]] = {}
    for run in report["runs"]:
        if run.get("blocks") and not run.get("void"):
            blocks = [Block(**block) for block in run["blocks"]]
            found.setdefault(run_name(run), []).extend(blocks)
    return found


def run_name(run: Mapping[str, Any]) -> str:
    """Return what a run is called; two runs of one name are the same load."""
    if "plan" not in run:
        side = f"{run['side']}, " if run.get("side") else ""
        return (
            f"{side}{run['precision']}, {run['items']:,} items, length {run['length']}, "
            f"k {run['k']}, batch {run['batch']}"
        )
    plan = run["plan"]
    if plan["concurrency"] is not None:
        return f"closed, {plan['concurrency']} at once"
    if plan["rate_per_s"] is not None:
        return f"open, {plan['rate_per_s']:g}/s"
    rates = [f"{s['from_per_s']:g}–{s['to_per_s']:g}" for s in plan["schedule"]]
    return f"open, {', '.join(rates)}/s"


def compare_blocks(
    a: Mapping[str, Sequence[Block]], b: Mapping[str, Sequence[Block]], max_regression: float
) -> list[Compared]:
    """Compare what both have; `BenchError` if they have nothing in common."""
    names = [name for name in a if name in b]
    if not names:
        raise BenchError(
            f"nothing in common: A has {', '.join(a) or 'no run that counts'}; "
            f"B has {', '.join(b) or 'no run that counts'}"
        )
    return [
        Compared(
            name=name,
            blocks_a=len(a[name]),
            blocks_b=len(b[name]),
            ratios=[
                ratio_of(metric, count_blocks(a[name]), count_blocks(b[name]), max_regression)
                for metric in STATISTICS
            ],
        )
        for name in names
    ]


def ratio_of(metric: str, a: Counted, b: Counted, max_regression: float) -> Ratio:
    """Return one metric of B over that of A, and whether it is too much worse."""
    value_a, value_b = (_value(metric, counted) for counted in (a, b))
    if not value_a or value_b is None:
        return _nothing(metric, value_a, value_b)
    bounds = _bounds(metric, a, b)
    better_is_more = metric in RATES
    ratio = value_b / value_a
    worse_by = 1 - ratio if better_is_more else ratio - 1
    return Ratio(
        metric=metric,
        a=value_a,
        b=value_b,
        ratio=ratio,
        bounds=bounds,
        worse_by=worse_by,
        regression=_is_regression(bounds, better_is_more, max_regression),
    )


def _nothing(metric: str, a: float | None, b: float | None) -> Ratio:
    return Ratio(metric=metric, a=a, b=b, ratio=None, bounds=None, worse_by=None, regression=False)


def _value(metric: str, counted: Counted) -> float | None:
    """Return the metric as measured; None where there are too few samples, or it failed."""
    if metric in SHARES:
        samples = counted.counts_BV.sum() + counted.failed_B.sum()
        if samples < needed_samples(SHARES[metric]):
            return None
    value = float(STATISTICS[metric](counted, counted.as_measured)[0])
    return value if np.isfinite(value) else None


def _bounds(metric: str, a: Counted, b: Counted) -> Interval | None:
    if min(len(a.failed_B), len(b.failed_B)) < 2:
        return None
    drawn_a, drawn_b = (
        STATISTICS[metric](counted, counted.drawn(seed))
        for counted, seed in zip((a, b), SIDES_SEED, strict=True)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios_D = drawn_b / drawn_a
    return middle(np.nan_to_num(ratios_D, nan=1.0, posinf=np.inf))


def _is_regression(bounds: Interval | None, better_is_more: bool, limit: float) -> bool:
    if bounds is None:
        return False
    low, high = bounds
    if better_is_more:
        return high is not None and high < 1 - limit
    return low > 1 + limit


def side(name: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a reader must know of one side."""
    environment = report["environment"]
    return {
        "name": name,
        "scenario": report["scenario"],
        "bundle_id": report.get("bundle_id"),
        "command": environment["command"],
        "commit": environment.get("commit"),
        "time": environment["time"],
        "processor": environment["processor"],
        "cores": environment["cores"],
    }


def compare_files(a: Path, b: Path, max_regression: float, here: Environment) -> CompareReport:
    """Compare two reports that were written with --json."""
    reports = [read_report(path) for path in (a, b)]
    blocks = [blocks_by_name(report) for report in reports]
    return CompareReport(
        environment=here,
        a=side(str(a), reports[0]),
        b=side(str(b), reports[1]),
        max_regression=max_regression,
        runs=compare_blocks(blocks[0], blocks[1], max_regression),
    )


def parse_percent(text: str) -> float:
    """Parse "5%" or "0.05" as a share; `BenchError` if it is neither."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise BenchError(f"max-regression is {text!r}; expected 0% to 100%, e.g. 5% or 0.05")
    return share
