"""What the fault suite counts: how often each fault was tried, what it lost, how it was survived.

Short in `make test`; `make proof` (MMSR_PROOF=1) is long and writes a report (MMSR_FAULTS_REPORT).
"""

import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from support.tree import ROOT

LONG = os.environ.get("MMSR_PROOF") == "1"
SEED = int(os.environ.get("MMSR_FAULTS_SEED", "0"))
SHOWN = 10  # losses that a failing scenario lists


def rounds(short: int, long: int) -> int:
    """Return how often a scenario tries its fault."""
    return long if LONG else short


@dataclass(kw_only=True)
class Tally:
    """One scenario's counts."""

    fault: str  # what is done, in words
    tried: int = 0
    kills: int = 0  # of those that were tried, by SIGKILL
    mutations: int = 0  # of those that were tried, changes of a bundle's files
    lost: list[str] = field(default_factory=list)  # what should not have happened, one line each
    recovered: Counter[str] = field(default_factory=Counter)  # how it was survived

    def survived(self, how: str) -> None:
        """Count a fault that was tried and did no harm."""
        self.tried += 1
        self.recovered[how] += 1

    def lose(self, what: str) -> None:
        """Count a fault that was tried and did harm."""
        self.tried += 1
        self.lost.append(what)

    def check(self, at_least: int = 1) -> None:
        """Fail unless so many faults were tried, and none did harm."""
        assert self.tried >= at_least, f"tried {self.tried} times, expected {at_least}"
        shown = "\n".join(self.lost[:SHOWN])
        assert not self.lost, f"{len(self.lost)} of {self.tried} did harm:\n{shown}"

    def row(self, scenario: str, seconds: float) -> dict[str, Any]:
        """Return the counts as plain values."""
        return {
            "scenario": scenario,
            "fault": self.fault,
            "tried": self.tried,
            "kills": self.kills,
            "mutations": self.mutations,
            "lost": len(self.lost),
            "recovered": dict(self.recovered.most_common()),
            "seconds": round(seconds, 1),
        }


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the scenarios as a table of Markdown."""
    lines = ["| fault | tried | lost | how it recovers | s |", "|---|--:|--:|---|--:|"]
    for row in rows:
        how = "; ".join(f"{what} ({count:,})" for what, count in row["recovered"].items())
        name, fault = row["scenario"], row["fault"]
        lines.append(
            f"| {fault} (`{name}`) | {row['tried']:,} | {row['lost']} | {how} | {row['seconds']} |"
        )
    return lines


def totals(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what all scenarios come to, in one line."""
    sums = {key: sum(row[key] for row in rows) for key in ("tried", "lost", "kills", "mutations")}
    failed = sum(row["fault"].startswith("**FAILED**") for row in rows)
    return (
        f"{sums['tried']:,} faults tried, {sums['lost']} with harm counted, "
        f"{failed} of {len(rows)} scenarios failed; among them {sums['kills']:,} "
        f"kills and {sums['mutations']:,} changes of bundle files"
    )


def report(rows: Sequence[Mapping[str, Any]], command: str) -> str:
    """Return the committed page."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    lines = [
        "# Faults: what was tried and what came of it",
        "",
        f"* command: `{command}` (seed {SEED})",
        f"* commit: {commit or 'unknown'}; date: {now}",
        f"* machine: {machine}, Python {platform.python_version()}, load average {load}",
        f"* in all: {totals(rows)}",
        "",
        *table(rows),
    ]
    return "\n".join(lines) + "\n"
