"""Shows what the scenarios of a running server found, above the tables of their runs."""

from typing import Any

from rich.console import Console

from mmsr.engine.bench.report import ServerReport
from mmsr.engine.bench.tables import (
    number,
    print_environment,
    print_lines,
    print_report_runs,
    share,
    short,
    table,
)


def print_slo(console: Console, report: ServerReport) -> None:
    """Print the rate that was found, and the runs that it took."""
    found = report.findings
    print_environment(console, report.environment)
    if found:
        print_lines(console, _slo_lines(found))
    print_report_runs(console, report)


def _slo_lines(found: dict[str, Any]) -> list[str]:
    rate, capacity, slo_ms = found["rate_per_s"], found["capacity_per_s"], found["slo_ms"]
    if rate is None:
        return [f"No rate was found at which p99 stays within {slo_ms:g} ms."]
    return [
        f"Highest rate with p99 within {slo_ms:g} ms: {number(rate, 1)}/s, "
        f"{share(rate / capacity)} of the {number(capacity, 0)}/s of a closed loop; confirmed by "
        f"the runs from number {found['first_confirming_run'] + 1} on."
    ]


def print_overload(console: Console, report: ServerReport) -> None:
    """Print what became of the requests at each share of the capacity."""
    found = report.findings
    print_environment(console, report.environment)
    if found:
        headings = (
            "sent",
            "sent/s",
            "good/s",
            "of cap.",
            "refused",
            "failed",
            "refusal p50",
            "p99 ms",
        )
        rows = [
            [
                f"{one['factor']:g}x{' VOID' if one['void'] else ''}",
                number(one["intended_per_s"], 0),
                number(one["goodput_per_s"], 0),
                share(one["share_of_capacity"]),
                share(one["refused"]),
                share(one["failed"]),
                short(one["refusal_ms"]["p50"]),
                short(one["refusal_ms"]["p99"]),
            ]
            for one in found["loaded"]
        ]
        console.print(table("Overload, by shares of the capacity", headings, rows))
        recovered = found["recovery_s"]
        after = "no second was good again" if recovered is None else f"{recovered:.2f} s"
        print_lines(
            console,
            [
                f"Capacity: {number(found['capacity_per_s'], 0)}/s. Recovery after "
                f"{found['recovery_factor']:g}x: {after} (99 % of a second's requests good)."
            ],
        )
    print_report_runs(console, report)


def print_reload(console: Console, report: ServerReport) -> None:
    """Print the seconds around the switches beside the others."""
    found = report.findings
    print_environment(console, report.environment)
    if found:
        rows = [
            [
                name,
                number(found[part]["seconds"], 1),
                number(found[part]["requests"], 0),
                number(found[part]["failed"], 0),
                *(short(found[part]["latency_ms"][p]) for p in ("p50", "p90", "p99")),
                short(found[part]["max_ms"]),
            ]
            for name, part in (("within 1 s of a switch", "near"), ("all others", "far"))
        ]
        headings = ("requests", "s", "number", "failed", "p50 ms", "p90 ms", "p99 ms", "max ms")
        console.print(table("Reloads", headings, rows))
        print_lines(console, _reload_lines(found))
    print_report_runs(console, report)


def _reload_lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{len(found['changes_s'])} of {len(found['asked_s'])} switches seen in the answers."]
    if found["void"]:
        lines.insert(0, f"VOID, {found['void']}")
    memory = found["memory_mib"]
    if memory is not None:
        lines.append(
            f"Memory of the server: {memory['first']:,.0f} MiB before, {memory['most']:,.0f} at "
            f"most, {memory['last']:,.0f} at the end."
        )
    return lines
