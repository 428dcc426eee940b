"""`mmsr-bench` for what computes, without a server: flags in; a table, JSON and a page out."""

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from mmsr.engine.bench.options import (
    HtmlOption,
    JsonOption,
    LabelOption,
    RepositoryOption,
    SeedOption,
    TargetArgument,
)
from mmsr.engine.bench.plan import parse_counts
from mmsr.engine.bench.present import show
from mmsr.engine.config import RunnerName

RUNNERS = get_args(RunnerName)


def engine(
    repository: Annotated[
        list[Path], typer.Option(help="Repository that holds the bundle; repeat it to compare.")
    ],
    label: Annotated[
        list[str] | None,
        typer.Option(help="Label or id of a bundle; repeat it to compare. Default: stable."),
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
    runner: Annotated[
        str, typer.Option(help=f"What computes, as in mmsr-serve: {', '.join(RUNNERS)}.")
    ] = "auto",
    duration_s: Annotated[float, typer.Option(help="Measured seconds of each combination.")] = 3.0,
    threads: Annotated[
        int | None, typer.Option(help="Threads of one computation. Default: as mmsr-serve.")
    ] = None,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
    html_file: HtmlOption = None,
) -> None:
    """Measure the runner alone, without a server: milliseconds a batch."""
    from mmsr.engine.bench.engine_bench import EngineBench, measure_engine
    from mmsr.engine.bench.progress import progress_bar
    from mmsr.engine.bench.runner_tables import print_engine
    from mmsr.engine.config import default_threads

    bench = EngineBench(
        repositories=repository,
        labels=label or ["stable"],
        batches=parse_counts(batch, "--batch"),
        lengths=[None] if length is None else parse_counts(length, "--length"),
        ks=parse_counts(k, "--k"),
        items=[None] if items is None else parse_counts(items, "--items"),
        runner=cast(RunnerName, runner),
        duration_s=duration_s,
        threads=default_threads() if threads is None else threads,
        seed=seed,
    )
    show(lambda: measure_engine(bench, progress_bar), print_engine, json_file, html_file)


def encode(
    repository: RepositoryOption,
    label: LabelOption = "stable",
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1,8,32",
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of pictures to encode. Default: made-up JPEG files."),
    ] = None,
    duration_s: Annotated[float, typer.Option(help="Measured seconds of each line, twice.")] = 3.0,
    threads: Annotated[
        int | None, typer.Option(help="Threads of one computation. Default: as mmsr-serve.")
    ] = None,
    json_file: JsonOption = None,
    html_file: HtmlOption = None,
) -> None:
    """Measure a bundle's image and text encoders: items a second."""
    from mmsr.engine.bench.encode_bench import EncodeBench, measure_encode
    from mmsr.engine.bench.progress import progress_bar
    from mmsr.engine.bench.runner_tables import print_encode
    from mmsr.engine.config import default_threads

    bench = EncodeBench(
        repository=repository,
        label=label,
        batches=parse_counts(batch, "--batch"),
        images=images,
        duration_s=duration_s,
        threads=default_threads() if threads is None else threads,
    )
    show(lambda: measure_encode(bench, progress_bar), print_encode, json_file, html_file)


def retrain(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run of mmsr-train fit.")],
    target: TargetArgument,
    repository: RepositoryOption,
    label: LabelOption = "stable",
    data: Annotated[
        Path | None, typer.Option(help="The run's prepared data. Default: as recorded.")
    ] = None,
    restart: Annotated[
        str | None,
        typer.Option(help="Command after which the server has the new bundle; may be the server."),
    ] = None,
    wait_s: Annotated[float, typer.Option(help="Longest wait for the first new answer.")] = 300.0,
    export_flag: Annotated[
        list[str] | None, typer.Option(help="Handed on to mmsr-export, e.g. --fresh; repeatable.")
    ] = None,
    json_file: JsonOption = None,
    html_file: HtmlOption = None,
) -> None:
    """Measure the way from the end of a training to the first new answer."""
    from mmsr.engine.bench.retrain_bench import RetrainBench, measure_retrain
    from mmsr.engine.bench.runner_tables import print_retrain

    bench = RetrainBench(
        run=run,
        repository=repository,
        label=label,
        target=target,
        data=data,
        export_flags=export_flag or [],
        restart=restart,
        wait_s=wait_s,
    )
    show(lambda: measure_retrain(bench), print_retrain, json_file, html_file)
