"""`mmsr-bench`: flags in, a table and JSON out."""

from pathlib import Path
from typing import Annotated

import typer

from mmsr.bundle.terminal import run
from mmsr.engine.bench.plan import (
    DEFAULT_CONCURRENCY,
    DEFAULT_RATE,
    VOID_EXIT_CODE,
    Window,
    make_plans,
    parse_counts,
)

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

RepositoryOption = Annotated[Path, typer.Option(help="Repository that holds the bundle.")]
LabelOption = Annotated[str, typer.Option(help="Label of the bundle in the repository.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write everything here.")]


@app.callback()
def _main() -> None:
    """Measure a running server, or the runner alone."""


@app.command()
def server(
    target: Annotated[str, typer.Argument(help="HOST:PORT of a running mmsr-serve.")],
    repository: RepositoryOption,
    label: LabelOption = "stable",
    concurrency: Annotated[
        str | None,
        typer.Option(
            help="Closed loop: this many callers, each sending when its last request ended. "
            f"Default {DEFAULT_CONCURRENCY}, or none if only --rate is given."
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            help="Open loop: requests per second, at Poisson times, whatever the server does. "
            f"Default {DEFAULT_RATE}, or none if only --concurrency is given."
        ),
    ] = None,
    duration_s: Annotated[float, typer.Option(help="Measured seconds of each run.")] = 10.0,
    warm_up_s: Annotated[float, typer.Option(help="Seconds before that, not counted.")] = 2.0,
    deadline_ms: Annotated[int, typer.Option(help="Deadline of every request.")] = 5000,
    k: Annotated[int, typer.Option(help="Items asked for.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the arrivals and the order of histories.")] = 0,
    json_file: JsonOption = None,
) -> None:
    """Measure latency and throughput of a running server.

    Sends the bundle's own histories. Latency of the open loop counts from the \
time at which a request was meant to be sent, so that a stall of the server is \
felt by everyone who would have come meanwhile. Failed requests are counted by \
status, and as slower than every answer.

    Exit code 3: a run is VOID, since the generator itself was late or the answers \
were not the model's.
    """
    from rich.console import Console

    from mmsr.engine.bench.interrupt import sigterm_as_interrupt
    from mmsr.engine.bench.report import print_server, write_report
    from mmsr.engine.bench.server_bench import ServerBench, measure_server

    window = Window(warm_up_s=warm_up_s, duration_s=duration_s, deadline_ms=deadline_ms, seed=seed)
    bench = ServerBench(
        target=target,
        repository=repository,
        label=label,
        k=k,
        plans=make_plans(concurrency, rate, window),
    )
    with sigterm_as_interrupt():
        report = measure_server(bench)
    print_server(Console(), report)
    if json_file is not None:
        write_report(json_file, report)
    if report.interrupted:
        raise typer.Exit(130)
    if report.void:
        raise typer.Exit(VOID_EXIT_CODE)


@app.command()
def engine(
    repository: RepositoryOption,
    label: LabelOption = "stable",
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1,8,32,128",
    length: Annotated[
        int | None,
        typer.Option(help="Items in each history. Default: as many as the model reads."),
    ] = None,
    k: Annotated[int, typer.Option(help="Items asked for.")] = 20,
    duration_s: Annotated[float, typer.Option(help="Measured seconds of each batch size.")] = 3.0,
    threads: Annotated[
        int | None, typer.Option(help="Threads of one computation. Default: as mmsr-serve.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the histories.")] = 0,
    json_file: JsonOption = None,
) -> None:
    """Measure the runner alone, without a server: milliseconds a batch, by batch size.

    This is the ceiling of a server on this machine: no socket, no queue, full batches.
    """
    from rich.console import Console

    from mmsr.engine.bench.engine_bench import EngineBench, measure_engine
    from mmsr.engine.bench.interrupt import sigterm_as_interrupt
    from mmsr.engine.bench.progress import progress_bar
    from mmsr.engine.bench.report import print_engine, write_report
    from mmsr.engine.config import default_threads

    bench = EngineBench(
        repository=repository,
        label=label,
        batches=parse_counts(batch, "--batch"),
        length=length,
        k=k,
        duration_s=duration_s,
        threads=default_threads() if threads is None else threads,
        seed=seed,
    )
    with sigterm_as_interrupt():
        report = measure_engine(bench, progress_bar)
    print_engine(Console(), report)
    if json_file is not None:
        write_report(json_file, report)
    if report.interrupted:
        raise typer.Exit(130)


def main() -> None:
    """Entry point of `mmsr-bench`."""
    run(app)
