"""Shows what was measured without a server in a terminal. Decides nothing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from mmsr.engine.bench.tables import number, print_environment, print_lines, table

if TYPE_CHECKING:
    from mmsr.engine.bench.engine_bench import BatchSummary, EngineReport

GB_NOTE = "GB/s: bytes of the output table over the time of a batch; of memory: over the copy rate."


def print_engine(console: Console, report: "EngineReport") -> None:
    """Print one table of all combinations; what is the same in all of them stands above it."""
    print_environment(console, report.environment)
    first = report.runs[0]
    same = [f"{text}" for name, text in _facts(first).items() if not _varies(report.runs, name)]
    lines = [
        f"{report.threads} threads, memory copied at {report.copy_gb_per_s:.1f} GB/s (read and "
        "written)",
        ", ".join(same),
    ]
    print_lines(console, lines)
    varying = [name for name in _facts(first) if _varies(report.runs, name)]
    headings = (
        "batch",
        *varying,
        "p50 ms",
        "p99 ms",
        "requests/s",
        "pad",
        "run",
        "split",
        "GB/s",
        "of memory",
    )
    rows = [_row(run, varying) for run in report.runs]
    console.print(table("The runner alone, and where its time goes", headings, rows))
    print_lines(console, [GB_NOTE])
    if report.interrupted:
        print_lines(console, ["Interrupted: this is what was measured so far."])


def _row(run: "BatchSummary", varying: Sequence[str]) -> list[str]:
    facts = _facts(run)
    return [
        str(run.batch),
        *(facts[name].rpartition(" ")[2] for name in varying),
        number(run.batch_ms["p50"]),
        number(run.batch_ms["p99"]),
        number(run.requests_per_s, 0),
        *(f"{share:.0%}" for share in run.share.values()),
        number(run.scored_gb_per_s, 1),
        f"{run.share_of_memory:.0%}",
    ]


def _facts(run: "BatchSummary") -> dict[str, str]:
    return {
        "bundle": f"bundle {run.bundle_id}",
        "precision": run.precision,
        "runner": run.runner,
        "items": f"items {run.items:,}",
        "length": f"histories of {run.length}",
        "k": f"k {run.k}",
    }


def _varies(runs: Sequence["BatchSummary"], name: str) -> bool:
    return len({_facts(run)[name] for run in runs}) > 1
