"""`mmsr-bench` for what computes, without a server: flags in, a table and JSON out."""

from typing import Annotated

import typer

from mmsr.engine.bench.options import JsonOption, RepositoryOption, SeedOption
from mmsr.engine.bench.plan import parse_counts
from mmsr.engine.bench.present import show


def engine(
    repository: RepositoryOption,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Label of a bundle; repeat it to compare precisions. Default: stable."),
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1,8,32,128",
    length: Annotated[
        str | None,
        typer.Option(help="Items in each history. Default: as many as the model reads."),
    ] = None,
    k: Annotated[str, typer.Option(help="Items asked for.")] = "20",
    items: Annotated[
        str | None,
        typer.Option(
            help="Catalogue sizes: the bundle's rows drawn again and again. Default: its own."
        ),
    ] = None,
    provider: Annotated[
        str, typer.Option(help="What computes, in ONNX Runtime's words.")
    ] = "CPUExecutionProvider",
    duration_s: Annotated[float, typer.Option(help="Measured seconds of each combination.")] = 3.0,
    threads: Annotated[
        int | None, typer.Option(help="Threads of one computation. Default: as mmsr-serve.")
    ] = None,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """Measure the runner alone, without a server: milliseconds a batch.

    This is the ceiling of a server on this machine: no socket, no queue, full batches. \
Every combination of --label, --items, --length, --k and --batch is measured.
    """
    from mmsr.engine.bench.engine_bench import EngineBench, measure_engine
    from mmsr.engine.bench.progress import progress_bar
    from mmsr.engine.bench.runner_tables import print_engine
    from mmsr.engine.config import default_threads

    bench = EngineBench(
        repository=repository,
        labels=label or ["stable"],
        batches=parse_counts(batch, "--batch"),
        lengths=[None] if length is None else parse_counts(length, "--length"),
        ks=parse_counts(k, "--k"),
        items=[None] if items is None else parse_counts(items, "--items"),
        providers=(provider,),
        duration_s=duration_s,
        threads=default_threads() if threads is None else threads,
        seed=seed,
    )
    show(lambda: measure_engine(bench, progress_bar), print_engine, json_file)
