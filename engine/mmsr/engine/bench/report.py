"""Shows what was measured: tables for people, JSON for machines. Decides nothing."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from mmsr.bundle.files import write_json
from mmsr.engine.bench.machine import Environment
from mmsr.engine.bench.summary import Percentiles, RunSummary

if TYPE_CHECKING:
    from mmsr.engine.bench.engine_bench import EngineReport

REPORT_FORMAT = 1
NOT_ENOUGH = "–"  # too few samples, or the percentile falls among the failed requests


@dataclass(frozen=True, kw_only=True)
class ServerReport:
    """All runs of one `mmsr-bench server`."""

    environment: Environment
    target: str
    bundle_id: str  # of the bundle that the histories come from
    label: str
    k: int
    histories: int
    runs: list[RunSummary]
    interrupted: bool

    @property
    def void(self) -> bool:
        """Whether a run does not count."""
        return any(run.void for run in self.runs)


def number(value: float | None, digits: int = 2) -> str:
    """Return a number for a table, or a dash."""
    return NOT_ENOUGH if value is None else f"{value:,.{digits}f}"


def write_report(path: Path, report: "ServerReport | EngineReport") -> None:
    """Write the whole report as JSON."""
    scenario = "server" if isinstance(report, ServerReport) else "engine"
    fields: dict[str, Any] = asdict(report)
    write_json(path, {"format": REPORT_FORMAT, "scenario": scenario, **fields})


def print_environment(console: Console, environment: Environment) -> None:
    """Say where it was measured."""
    console.print(
        f"{environment.processor}, {environment.cores} cores, "
        f"{environment.memory_gib:g} GiB, load {environment.load_average:g} before the start",
        highlight=False,
    )


def print_server(console: Console, report: ServerReport) -> None:
    """Print one table of all runs and the notes that go with it."""
    print_environment(console, report.environment)
    console.print(
        f"{report.target}, k {report.k}, {report.histories:,} histories "
        f"of bundle {report.bundle_id}",
        highlight=False,
    )
    console.print(_client_table(report.runs))
    console.print(_inside_table(report.runs))
    for line in _notes(report):
        console.print(line, highlight=False, soft_wrap=True)


def _client_table(runs: list[RunSummary]) -> Table:
    headings = ("loop", "load", "p50 ms", "p90 ms", "p99 ms", "answers/s", "intended/s", "errors")
    return _table(
        "What a client sees",
        headings,
        [
            [
                *_name(run),
                *_percentiles(run.latency_ms),
                number(run.answered_per_s, 0),
                number(run.intended_per_s, 0),
                number(sum(run.errors.values()), 0),
            ]
            for run in runs
        ],
    )


def _inside_table(runs: list[RunSummary]) -> Table:
    headings = (
        "loop",
        "load",
        "batch",
        "batches/s",
        "queue us",
        "compute us",
        "lag p50",
        "lag p99",
    )
    return _table(
        "Inside the server, and how late the generator was (lag, ms)",
        headings,
        [
            [
                *_name(run),
                number(run.batch_size, 1),
                number(run.batches_per_s, 0),
                number(run.queue_us, 0),
                number(run.compute_us, 0),
                *_percentiles(run.lag_ms or {"p50": None, "p90": None, "p99": None})[::2],
            ]
            for run in runs
        ],
    )


def _table(title: str, headings: tuple[str, ...], rows: list[list[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _name(run: RunSummary) -> tuple[str, str]:
    void = " VOID" if run.void else ""
    if run.plan.rate_per_s is not None:
        return f"open{void}", f"{run.plan.rate_per_s:g}/s"
    return f"closed{void}", str(run.plan.concurrency)


def _percentiles(values: Percentiles) -> list[str]:
    return [number(values[p]) for p in ("p50", "p90", "p99")]


def _notes(report: ServerReport) -> list[str]:
    notes = [
        "Latency: open loop from the intended send time; a failed request counts as slower than "
        f"every answer. {NOT_ENOUGH}: the percentile falls among the failed, or there are too few "
        "samples (p50 needs 20, p90 100, p99 1,000).",
        "batch: as a request sees it, the mean over requests of the batch that each rode in; "
        "batches/s counts each batch once.",
        _window_note(report.runs),
    ]
    for run in report.runs:
        notes += [f"{run.plan.name}: {line}" for line in _run_notes(run)]
    versions = sorted({version for run in report.runs for version in run.model_versions})
    if versions and versions != [report.bundle_id]:
        notes.append(
            f"Note: the server answered with {', '.join(versions)}, the histories are of "
            f"{report.bundle_id}; are repository and label the server's?"
        )
    if report.interrupted:
        notes.append("Interrupted: this is what was measured so far.")
    return notes


def _window_note(runs: list[RunSummary]) -> str:
    excluded = sum(run.warm_up_requests for run in runs)
    warm_up_s = runs[0].plan.window.warm_up_s
    return f"Warm-up left out: the first {warm_up_s:g} s of each run, {excluded:,} requests in all."


def _run_notes(run: RunSummary) -> list[str]:
    notes = []
    if run.void:
        notes.append(f"VOID, {run.void}")
    for status, count in run.errors.items():
        details = run.first_details.get(status, "")
        notes.append(f"{count:,} x {status}" + (f", first: {details}" if details else ""))
    if run.interrupted:
        notes.append(
            f"interrupted after {run.measured_s:.1f} s of {run.plan.window.duration_s:g} s"
        )
    return notes


def print_engine(console: Console, report: "EngineReport") -> None:
    """Print one table of all batch sizes."""
    print_environment(console, report.environment)
    console.print(
        f"{report.runner}, {report.threads} threads, bundle {report.bundle_id}, "
        f"{report.items:,} items, histories of {report.length}, k {report.k}",
        highlight=False,
        soft_wrap=True,
    )
    headings = ("batch", "p50 ms", "p90 ms", "p99 ms", "requests/s", "pad", "run", "split")
    rows = [
        [
            str(run.batch),
            *_percentiles(run.batch_ms),
            number(run.requests_per_s, 0),
            *(f"{share:.0%}" for share in run.share.values()),
        ]
        for run in report.runs
    ]
    console.print(_table("The runner alone, and where its time goes", headings, rows))
    if report.interrupted:
        console.print("Interrupted: this is what was measured so far.")
