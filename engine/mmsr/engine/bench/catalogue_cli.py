"""`mmsr-bench catalogue`: flags in; tables, JSON and a page out."""

from typing import Annotated

import typer

from mmsr.engine.bench.options import (
    ArrivalsOption,
    CeilingsOption,
    ChoiceOption,
    DeadlineOption,
    DurationOption,
    GeneratorsOption,
    HtmlOption,
    JsonOption,
    KOption,
    LabelOption,
    PidOption,
    RepositoryOption,
    SeedOption,
    SloOption,
    TargetArgument,
    WarmUpOption,
)
from mmsr.engine.bench.plan import RunPlan, Traffic, Window
from mmsr.engine.bench.present import show


def catalogue(
    target: TargetArgument,
    repository: RepositoryOption,
    label: LabelOption = "stable",
    writes_per_s: Annotated[float, typer.Option(help="Writes a second, of every kind.")] = 5.0,
    content: Annotated[
        str, typer.Option(help="Of new items: features, text or image; the last two are encoded.")
    ] = "features",
    probe_ms: Annotated[
        float, typer.Option(help="From one question whether a write is shown to the next.")
    ] = 10.0,
    rounds: Annotated[
        int, typer.Option(help="Windows without writes, and as many with: A B B A …")
    ] = 5,
    rate: Annotated[float, typer.Option(help="Recommendations per second meanwhile.")] = 100.0,
    arrivals: ArrivalsOption = "poisson",
    choice: ChoiceOption = "in-order",
    generators: GeneratorsOption = 1,
    slo_ms: SloOption = 50.0,
    duration_s: DurationOption = 15.0,
    warm_up_s: WarmUpOption = 2.0,
    deadline_ms: DeadlineOption = 5000,
    k: KOption = 20,
    seed: SeedOption = 0,
    server_pid: PidOption = None,
    ceilings: CeilingsOption = True,
    json_file: JsonOption = None,
    html_file: HtmlOption = None,
) -> None:
    """Measure how long a write takes until an answer shows it, and what it costs the others."""
    from mmsr.engine.bench.catalogue_bench import CatalogueBench, measure_catalogue
    from mmsr.engine.bench.catalogue_tables import print_catalogue
    from mmsr.engine.bench.server_bench import Subject

    window = Window(warm_up_s=warm_up_s, duration_s=duration_s, deadline_ms=deadline_ms, seed=seed)
    traffic = Traffic(arrivals=arrivals, choice=choice, generators=generators, slo_ms=slo_ms)
    bench = CatalogueBench(
        subject=Subject(
            target=target, repository=repository, label=label, k=k, server_pid=server_pid
        ),
        plan=RunPlan(rate_per_s=rate, window=window, traffic=traffic),
        writes_per_s=writes_per_s,
        content=content,
        probe_ms=probe_ms,
        rounds=rounds,
        ceilings=ceilings,
    )
    show(lambda: measure_catalogue(bench), print_catalogue, json_file, html_file)
