"""Shows load runs in a terminal. Decides nothing."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from mmsr.engine.bench.blocks import Interval
from mmsr.engine.bench.ceilings import Ceilings
from mmsr.engine.bench.machine import Environment
from mmsr.engine.bench.report import ServerReport
from mmsr.engine.bench.summary import Percentiles, RunSummary

NOT_ENOUGH = "–"  # too few samples, or the percentile falls among the failed requests
MOST_CPU_RATIO = 0.7  # of the server's CPU time a request, for the generator
NONE_OF_THEM: Percentiles = {"p50": None, "p90": None, "p99": None}


def number(value: float | None, digits: int = 2) -> str:
    """Return a number for a table, or a dash."""
    return NOT_ENOUGH if value is None else f"{value:,.{digits}f}"


def short(value: float | None) -> str:
    """Return a number with about three digits, or a dash."""
    if value is None:
        return NOT_ENOUGH
    return number(value, 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0)


def bounds(interval: Interval | None) -> str:
    """Return a 95 % interval, or a dash."""
    if interval is None:
        return NOT_ENOUGH
    low, high = interval
    return f"{short(low)}–{'failed' if high is None else short(high)}"


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of numbers; the first column names the row."""
    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    grid.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        grid.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    return grid


def print_lines(console: Console, lines: Sequence[str]) -> None:
    """Print notes as they are, however long."""
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def print_environment(console: Console, environment: Environment) -> None:
    """Say where it was measured."""
    line = (
        f"{environment.processor}, {environment.cores} cores, "
        f"{environment.memory_gib:g} GiB, load {environment.load_average:g} before the start"
    )
    gpus = [", ".join(gpu.values()) for gpu in environment.gpus]
    print_lines(console, [line, *gpus])


def print_server(console: Console, report: ServerReport) -> None:
    """Print the tables of all runs and the notes that go with them."""
    print_environment(console, report.environment)
    print_report_runs(console, report)


def print_report_runs(console: Console, report: ServerReport) -> None:
    """Print all but where it was measured."""
    subject = (
        f"{report.target}, k {report.k}, {report.histories:,} histories "
        f"of bundle {report.bundle_id}"
    )
    print_lines(console, [subject])
    print_runs(console, report.runs)
    if report.ceilings is not None:
        print_ceilings(console, report.runs, report.ceilings)
    print_lines(console, notes(report))


def print_runs(console: Console, runs: Sequence[RunSummary]) -> None:
    """Print what clients saw, how sure that is, what the server did, and what it cost."""
    for grid in (
        _client_table(runs),
        _interval_table(runs),
        _inside_table(runs),
        _cost_table(runs),
    ):
        console.print(grid)


def _client_table(runs: Sequence[RunSummary]) -> Table:
    within = ", ".join(f"{slo:g}" for slo in sorted({run.plan.traffic.slo_ms for run in runs}))
    rows = [
        [
            name(run),
            number(run.goodput_per_s, 0),
            number(run.answered_per_s, 0),
            *(short(run.latency_ms[p]) for p in ("p50", "p90", "p99")),
            number(sum(run.refusals.values()), 0),
            number(sum(run.errors.values()), 0),
        ]
        for run in runs
    ]
    headings = ("load", "good/s", "answers/s", "p50 ms", "p90 ms", "p99 ms", "refused", "errors")
    return table(f"What a client sees; good: answered within {within} ms", headings, rows)


def _interval_table(runs: Sequence[RunSummary]) -> Table:
    rows = [
        [
            name(run),
            bounds(run.goodput_interval),
            *(bounds(run.latency_intervals[p]) for p in ("p50", "p90", "p99")),
        ]
        for run in runs
    ]
    return table("95 % intervals", ("load", "good/s", "p50 ms", "p90 ms", "p99 ms"), rows)


def _inside_table(runs: Sequence[RunSummary]) -> Table:
    rows = [
        [
            name(run),
            number(run.server.batch_size, 1),
            number(run.server.batches_per_s, 0),
            number(run.server.queue_us, 0),
            number(run.server.compute_us, 0),
            number(max((mib for _, mib in run.process.memory_mib), default=None), 0)
            if run.process
            else NOT_ENOUGH,
        ]
        for run in runs
    ]
    headings = ("load", "batch", "batches/s", "queue us", "compute us", "memory MiB")
    return table("Inside the server", headings, rows)


def _cost_table(runs: Sequence[RunSummary]) -> Table:
    rows = [
        [
            name(run),
            number(run.process.cpu_us if run.process else None, 0),
            number(run.generator_cpu_us, 0),
            number(run.cpu_ratio),
            *(short((run.lag_ms or NONE_OF_THEM)[p]) for p in ("p50", "p99")),
        ]
        for run in runs
    ]
    headings = ("load", "server us", "generator us", "ratio", "lag p50 ms", "lag p99 ms")
    return table("CPU time a request, and how late the generator was", headings, rows)


def print_ceilings(console: Console, runs: Sequence[RunSummary], ceilings: Ceilings) -> None:
    """Print what each run reached of what this machine can do at all."""
    rows = [
        [
            name(run),
            number(run.answered_per_s, 0),
            *(share(of) for of in ceilings.shares(run).values()),
        ]
        for run in runs
    ]
    headings = ("load", "answers/s", "of bare gRPC", "of the runner", "of memory")
    console.print(table("Share of the ceilings of this machine", headings, rows))
    print_lines(console, [ceilings_note(ceilings)])


def ceilings_note(ceilings: Ceilings) -> str:
    """Return what the ceilings are."""
    echoes = ", ".join(f"{kind} {number(rate, 0)}" for kind, rate in ceilings.echo_per_s.items())
    runner = ", ".join(f"{n}: {number(rate, 0)}" for n, rate in ceilings.runner_per_s.items())
    return (
        f"Ceilings: bare gRPC, the best of {echoes} requests/s; the runner alone, the best of "
        f"{runner} requests/s by batch ({ceilings.threads} threads); memory, "
        f"{ceilings.copy_gb_per_s:.1f} GB/s copied, {ceilings.table_bytes / 1e6:.1f} MB a batch."
    )


def share(value: float | None) -> str:
    """Return a share for a table: whole percents, or one digit where it is small."""
    if value is None:
        return NOT_ENOUGH
    return f"{value:.0%}" if value >= 0.1 else f"{value:.1%}"


def name(run: RunSummary) -> str:
    """Return what a row is called."""
    loop = "VOID" if run.void else "open" if run.plan.is_open else "closed"
    return f"{loop} {run.plan.load}"


def notes(report: ServerReport) -> list[str]:
    """Return what a reader must know to read the tables."""
    lines = [
        _percentile_note(report.runs),
        "batch: as a request sees it, the mean over requests of the batch that each rode in; "
        "batches/s counts each batch once. CPU: of the server's process and of the generator; "
        f"ratio: generator over server; {NOT_ENOUGH}: the server's process cannot be seen.",
        _window_note(report.runs),
    ]
    for run in report.runs:
        lines += [f"{run.plan.name}: {line}" for line in _run_notes(run)]
    versions = sorted({version for run in report.runs for version in run.model_versions})
    if versions and versions != [report.bundle_id] and report.scenario != "reload":
        lines.append(
            f"Note: the server answered with {', '.join(versions)}, the histories are of "
            f"{report.bundle_id}; are repository and label the server's?"
        )
    if report.interrupted:
        lines.append("Interrupted: this is what was measured so far.")
    return lines


def _percentile_note(runs: Sequence[RunSummary]) -> str:
    headline = any(run.plan.traffic.headline for run in runs)
    needed = "p90 24,576 and p99 270,336, as MLPerf" if headline else "p50 20, p90 100, p99 1,000"
    return (
        "Latency: open loop from the intended send time; a failed request counts as slower than "
        f"every answer. Intervals: by drawing seconds anew. {NOT_ENOUGH}: the percentile falls "
        f"among the failed, or there are too few samples (needed: {needed})."
    )


def _window_note(runs: Sequence[RunSummary]) -> str:
    excluded = sum(run.warm_up_requests for run in runs)
    warm_up_s = runs[0].plan.window.warm_up_s
    return f"Warm-up left out: the first {warm_up_s:g} s of each run, {excluded:,} requests in all."


def _run_notes(run: RunSummary) -> list[str]:
    lines = []
    if run.void:
        lines.append(f"VOID, {run.void}")
    if run.cpu_ratio is not None and run.cpu_ratio > MOST_CPU_RATIO:
        lines.append(
            f"the generator costs {run.cpu_ratio:.2f} of the server's CPU time a request; above "
            f"{MOST_CPU_RATIO:g} it may be the bottleneck: send from another machine"
        )
    for what, statuses in (("refused", run.refusals), ("failed", run.errors)):
        for status, count in statuses.items():
            details = run.first_details.get(status, "")
            first = f", first: {details}" if details else ""
            lines.append(f"{what}: {count:,} x {status}{first}")
    if run.interrupted:
        lines.append(
            f"interrupted after {run.measured_s:.1f} s of {run.plan.window.duration_s:g} s"
        )
    return lines
