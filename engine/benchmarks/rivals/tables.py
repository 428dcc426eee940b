"""Lines -> a table for the terminal and one in Markdown. Knows how to write, decides nothing."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from benchmarks.rivals.runner_alone import AloneLine
from benchmarks.rivals.tally import GOAL, Line, best_rival
from benchmarks.rivals.verdicts import BOUND_MS, Spread

NONE = "–"


class Sheet(NamedTuple):
    """A table before it is written."""

    title: str
    heads: list[str]
    rows: list[list[str]]


def servers_sheet(title: str, lines: Sequence[Line]) -> Sheet:
    """Return the table of the servers."""
    loads = list(lines[0].per_s)
    heads = [
        "",
        f"p50 at {loads[0]}, ms",
        *(f"answers/s at {c}" for c in loads),
        f"p99 at {loads[-1]}, ms",
        f"server CPU, ms/answer at {loads[-1]}",
        "client CPU, ms/answer",
        f"rate at p99 ≤ {BOUND_MS:g} ms, /s",
        "ours / this, rate",
        "ours / this, per server CPU",
        "faster than ours in",
    ]
    return Sheet(title, heads, [_cells(line, loads) for line in lines])


def _cells(line: Line, loads: Sequence[int]) -> list[str]:
    ratios = line.ratios
    rate = next((r for name, r in ratios.items() if name.startswith("rate ")), None)
    cpu = next((r for name, r in ratios.items() if "CPU" in name), None)
    failed = f"; {line.failed:,} failed" if line.failed else ""
    return [
        line.name + failed,
        line.p50_ms[loads[0]].text(2),
        *(line.per_s[c].text(0) for c in loads),
        line.p99_ms[loads[-1]].text(0),
        line.server_cpu_ms.text(2),
        line.client_cpu_ms.text(2),
        _text(line.rate_per_s, 0),
        _text(rate, 2),
        _text(cpu, 2),
        ", ".join(line.faster_in) or ("nothing" if ratios else NONE),
    ]


def alone_sheet(title: str, lines: Sequence[AloneLine]) -> Sheet:
    """Return the table of the runners."""
    heads = ["batch", "", "ms a batch", "CPU, ms a batch", "this / ours", "faster than ours"]
    rows = [
        [
            str(line.batch),
            line.name,
            line.ms.text(2),
            f"{line.cpu_ms:.2f}",
            line.ratio.text(2),
            "yes" if line.faster else ("no" if line.ratio.median != 1 else NONE),
        ]
        for line in lines
    ]
    return Sheet(title, heads, rows)


def goal_sentence(lines: Sequence[Line], rivals: Sequence[str]) -> str:
    """Say how ours stands to the best rival within the bound."""
    best, ours = best_rival(lines, rivals), lines[0].rate_per_s
    if best is None or best.rate_per_s is None or ours is None:
        return "No rate within the bound was searched for."
    against = next((r for name, r in best.ratios.items() if name.startswith("rate ")), None)
    if against is None:
        return (
            f"Rate at p99 ≤ {BOUND_MS:g} ms: in some search ours ({ours.text(0)}/s) or the best "
            f"rival's ({best.name}, {best.rate_per_s.text(0)}/s) held none: no ratio."
        )
    verdict = "reached" if against.median >= GOAL else "missed"
    return (
        f"Rate at p99 ≤ {BOUND_MS:g} ms: ours {ours.text(0)}/s, the best rival's ({best.name}) "
        f"{best.rate_per_s.text(0)}/s, ratio {against.text(2)}; the goal of {GOAL:g} is {verdict}."
    )


def rich_table(sheet: Sheet) -> Table:
    """Return a sheet for the terminal."""
    table = Table(title=sheet.title, title_justify="left")
    for number, head in enumerate(sheet.heads):
        table.add_column(head, justify="right" if number else "left", overflow="fold")
    for row in sheet.rows:
        table.add_row(*row)
    return table


def markdown(sheet: Sheet) -> str:
    """Return a sheet as Markdown."""
    rules = ["---", *["--:"] * (len(sheet.heads) - 1)]
    rows = [sheet.heads, rules, *sheet.rows]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"### {sheet.title}\n\n{table}\n"


def _text(spread: Spread | None, decimals: int) -> str:
    return NONE if spread is None else spread.text(decimals)
