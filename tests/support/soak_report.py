"""A soak as a page and as JSON."""

import json
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from support.soak_verdict import Round, Soak, Trends, problems, timing_problems, trends
from support.tree import ROOT
from support.trends import Slope

BUSY = 1.5  # load average a core: from there on the machine had other things to do


def write_report(path: Path, soak: Soak, command: str) -> None:
    """Write both: `path`, and beside it the same as `.json`."""
    about = environment(command)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(soak, about))
    seen = trends(soak)
    everything = {
        **about,
        "verdict": [*problems(soak), *timing_problems(soak)],
        "trends": {
            "p99 relative to the echo": shares(seen, seen.p99),
            "capacity relative to the echo": shares(seen, seen.capacity),
            "memory": seen.memory,
            "descriptors": seen.descriptors,
            "threads": seen.threads,
            "children": seen.children,
        },
        **asdict(soak),
    }
    path.with_suffix(".json").write_text(json.dumps(finite(everything), indent=1) + "\n")


def finite(value: Any) -> Any:
    """Return what JSON can hold: null where a percentile falls among the failed."""
    if isinstance(value, dict):
        return {key: finite(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inside) for inside in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def environment(command: str) -> dict[str, Any]:
    """Return where and when."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "command": command,
        "commit": done.stdout.strip() or "unknown",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}",
    }


def shares(seen: Trends, of: Slope) -> list[float | None]:
    """Return a trend over the whole soak and its interval; None: unbounded."""
    return [value if math.isfinite(value) else None for value in seen.over_all(of)]


def page(soak: Soak, about: dict[str, Any]) -> str:
    """Return the page."""
    load = [found.load_average for found in soak.rounds]
    cores = os.cpu_count() or 1
    busy = median(load) > BUSY * cores
    lines = [
        "# Soak: minutes of load, reloads and catalogue writes",
        "",
        f"* command: `{about['command']}`",
        f"* commit: {about['commit']}; date: {about['date']}",
        f"* machine: {about['machine']}; load average {min(load):.1f} to {max(load):.1f}",
        *(["* **The machine was busy with other work**: compare ratios, not times."] * busy),
        "",
        *verdict(soak),
        "",
        *table(soak),
    ]
    return "\n".join(lines) + "\n"


def verdict(soak: Soak) -> list[str]:
    """Return what was promised beside what was found."""
    seen = trends(soak)
    settled = soak.settled
    after = soak.rounds[settled:]
    memory = [found.memory_mib for found in after]
    failures = sum(soak.failed.values()) + len(soak.failed_writes) + len(soak.failed_beside)
    sent = soak.requests + soak.writes + soak.beside
    lines = [
        "| what | must be | found |",
        "|---|---|---|",
        f"| requests, writes and calls of other methods that failed | 0 | {failures} of {sent:,} |",
        f"| wrong answers, by brute force over the rows that the reply names | 0 | "
        f"{len(soak.wrong)} of {soak.checked:,} |",
        f"| bundles that took over | all | {soak.reloads} of {soak.asked_reloads} |",
        f"| p99 relative to the echo, over the soak | no rise | {_trend(seen, seen.p99)} |",
        f"| capacity relative to the echo, over the soak | no fall | "
        f"{_trend(seen, seen.capacity)} |",
        f"| resident memory after the first {settled} rounds | at most +3 % | "
        f"{seen.memory:+.1%} ({min(memory):.1f} to {max(memory):.1f} MiB) |",
        f"| file descriptors | flat | {_counts([found.descriptors for found in after])} |",
        f"| threads | flat | {_counts([found.threads for found in after])} |",
        f"| child processes | flat | {_counts([found.children for found in after])} |",
    ]
    wrong = [*problems(soak), *timing_problems(soak)]
    lines += ["", *([f"* **{what}**" for what in wrong] or ["Nothing is wrong.", "", _open(seen)])]
    return lines


def _open(seen: Trends) -> str:
    """Say what could have happened without being seen."""
    most, least = seen.over_all(seen.p99)[2], seen.over_all(seen.capacity)[1]
    return (
        f"What this run leaves open: a rise of p99 by up to {most:.0%} and a fall of the capacity "
        f"by up to {-least:.0%} over its whole length are within the intervals."
    )


def _trend(seen: Trends, of: Slope) -> str:
    share, low, high = seen.over_all(of)
    return f"{share:+.0%}, 95 % interval {low:+.0%} to {high:+.0%}"


def _counts(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def table(soak: Soak) -> list[str]:
    """Return the rounds."""
    lines = [
        "A round is ten windows: a closed loop on the echo and on the server, then an open loop at "
        "70 % of what the server could do, with the echo asked beside it 50 times a second. "
        "Latencies in ms from the intended sending time; memory and counts are the round's lowest "
        "readings (no reload is under way then).",
        "",
        "| round | capacity/s | of the echo's | sent/s | p50 | p99 | echo p99 | p99 / echo | us "
        "CPU a request | MiB | files | threads | load |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    return [*lines, *(_row(number, found) for number, found in enumerate(soak.rounds, 1))]


def _row(number: int, found: Round) -> str:
    cells = [
        str(number),
        f"{found.capacity_per_s:,.0f}",
        f"{found.capacity_per_s / found.echo_per_s:.0%}",
        f"{found.rate_per_s:,.0f}",
        f"{found.latency_ms['p50']:.1f}",
        f"{found.latency_ms['p99']:.1f}",
        f"{found.echo_ms['p99']:.1f}",
        f"{found.ratio:.1f}",
        f"{found.cpu_us:.0f}",
        f"{found.memory_mib:.1f}",
        str(found.descriptors),
        str(found.threads),
        f"{found.load_average:.1f}",
    ]
    return f"| {' | '.join(cells)} |"
