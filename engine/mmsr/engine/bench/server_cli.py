"""`mmsr-bench` for a running server: flags in, a table, JSON and a page out."""

from typing import Annotated

import typer

from mmsr.engine.bench.options import (
    ArrivalsOption,
    CeilingsOption,
    ChoiceOption,
    ConcurrencyOption,
    DeadlineOption,
    DurationOption,
    GeneratorsOption,
    HeadlineOption,
    HtmlOption,
    JsonOption,
    KOption,
    LabelOption,
    PidOption,
    RampOption,
    RateOption,
    RepositoryOption,
    SeedOption,
    SloOption,
    StepOption,
    TargetArgument,
    WarmUpOption,
)
from mmsr.engine.bench.plan import (
    Loads,
    RunPlan,
    Traffic,
    Window,
    make_plans,
    parse_numbers,
)
from mmsr.engine.bench.present import show


def server(
    target: TargetArgument,
    repository: RepositoryOption,
    label: LabelOption = "stable",
    concurrency: ConcurrencyOption = None,
    rate: RateOption = None,
    ramp: RampOption = None,
    step: StepOption = None,
    arrivals: ArrivalsOption = "poisson",
    choice: ChoiceOption = "in-order",
    generators: GeneratorsOption = 1,
    slo_ms: SloOption = 50.0,
    duration_s: DurationOption = 10.0,
    warm_up_s: WarmUpOption = 2.0,
    deadline_ms: DeadlineOption = 5000,
    k: KOption = 20,
    seed: SeedOption = 0,
    server_pid: PidOption = None,
    ceilings: CeilingsOption = True,
    headline: HeadlineOption = False,
    json_file: JsonOption = None,
    html_file: HtmlOption = None,
) -> None:
    """Measure latency and throughput of a running server."""
    from mmsr.engine.bench.server_bench import ServerBench, Subject, measure_server
    from mmsr.engine.bench.tables import print_server

    window = Window(warm_up_s=warm_up_s, duration_s=duration_s, deadline_ms=deadline_ms, seed=seed)
    traffic = Traffic(
        arrivals=arrivals, choice=choice, generators=generators, slo_ms=slo_ms, headline=headline
    )
    subject = Subject(target=target, repository=repository, label=label, k=k, server_pid=server_pid)
    loads = Loads(concurrency=concurrency, rate=rate, ramp=ramp, step=step)
    bench = ServerBench(
        subject=subject, plans=make_plans(loads, window, traffic), ceilings=ceilings
    )
    show(lambda: measure_server(bench), print_server, json_file, html_file)


def slo(
    target: TargetArgument,
    repository: RepositoryOption,
    label: LabelOption = "stable",
    slo_ms: SloOption = 50.0,
    probe_s: Annotated[float, typer.Option(help="Seconds of each run of the search.")] = 3.0,
    arrivals: ArrivalsOption = "poisson",
    choice: ChoiceOption = "in-order",
    generators: GeneratorsOption = 1,
    duration_s: DurationOption = 15.0,
    warm_up_s: WarmUpOption = 1.0,
    deadline_ms: DeadlineOption = 5000,
    k: KOption = 20,
    seed: SeedOption = 0,
    server_pid: PidOption = None,
    ceilings: CeilingsOption = True,
    json_file: JsonOption = None,
    html_file: HtmlOption = None,
) -> None:
    """Find the highest rate at which p99 stays within a limit."""
    from mmsr.engine.bench.scenario_tables import print_slo
    from mmsr.engine.bench.server_bench import Subject
    from mmsr.engine.bench.slo_bench import SloBench, measure_slo

    bench = SloBench(
        subject=Subject(
            target=target, repository=repository, label=label, k=k, server_pid=server_pid
        ),
        traffic=Traffic(arrivals=arrivals, choice=choice, generators=generators, slo_ms=slo_ms),
        window=Window(
            warm_up_s=warm_up_s, duration_s=duration_s, deadline_ms=deadline_ms, seed=seed
        ),
        probe_s=probe_s,
        ceilings=ceilings,
    )
    show(lambda: measure_slo(bench), print_slo, json_file, html_file)


def overload(
    target: TargetArgument,
    repository: RepositoryOption,
    label: LabelOption = "stable",
    factors: Annotated[
        str, typer.Option(help="Shares of the capacity that are sent.")
    ] = "0.5,1,1.5,2,3",
    capacity: Annotated[
        float | None,
        typer.Option(help="Requests per second. Default: what a closed loop finds."),
    ] = None,
    generators: GeneratorsOption = 1,
    slo_ms: SloOption = 50.0,
    duration_s: DurationOption = 5.0,
    warm_up_s: WarmUpOption = 1.0,
    deadline_ms: DeadlineOption = 100,
    k: KOption = 20,
    seed: SeedOption = 0,
    server_pid: PidOption = None,
    ceilings: CeilingsOption = True,
    json_file: JsonOption = None,
    html_file: HtmlOption = None,
) -> None:
    """Send more than a server can do, and see what becomes of it."""
    from mmsr.engine.bench.overload_bench import OverloadBench, measure_overload
    from mmsr.engine.bench.scenario_tables import print_overload
    from mmsr.engine.bench.server_bench import Subject

    bench = OverloadBench(
        subject=Subject(
            target=target, repository=repository, label=label, k=k, server_pid=server_pid
        ),
        factors=parse_numbers(factors, "--factors"),
        capacity_per_s=capacity,
        traffic=Traffic(generators=generators, slo_ms=slo_ms),
        window=Window(
            warm_up_s=warm_up_s, duration_s=duration_s, deadline_ms=deadline_ms, seed=seed
        ),
        ceilings=ceilings,
    )
    show(lambda: measure_overload(bench), print_overload, json_file, html_file)


def reload(
    target: TargetArgument,
    repository: RepositoryOption,
    label: LabelOption = "stable",
    between: Annotated[
        list[str] | None,
        typer.Option(help="A bundle that the label is to name; give it twice."),
    ] = None,
    hook: Annotated[
        str | None, typer.Option(help="Instead: a command that makes the server switch.")
    ] = None,
    every_s: Annotated[float, typer.Option(help="Seconds from one switch to the next.")] = 10.0,
    rate: Annotated[float, typer.Option(help="Requests per second meanwhile.")] = 100.0,
    slo_ms: SloOption = 50.0,
    duration_s: DurationOption = 60.0,
    warm_up_s: WarmUpOption = 2.0,
    deadline_ms: DeadlineOption = 5000,
    k: KOption = 20,
    seed: SeedOption = 0,
    server_pid: PidOption = None,
    ceilings: CeilingsOption = True,
    json_file: JsonOption = None,
    html_file: HtmlOption = None,
) -> None:
    """Measure what clients feel while the server takes another bundle."""
    from mmsr.engine.bench.reload_bench import ReloadBench, measure_reload
    from mmsr.engine.bench.scenario_tables import print_reload
    from mmsr.engine.bench.server_bench import Subject

    window = Window(warm_up_s=warm_up_s, duration_s=duration_s, deadline_ms=deadline_ms, seed=seed)
    bench = ReloadBench(
        subject=Subject(
            target=target, repository=repository, label=label, k=k, server_pid=server_pid
        ),
        plan=RunPlan(rate_per_s=rate, window=window, traffic=Traffic(slo_ms=slo_ms)),
        every_s=every_s,
        between=between or [],
        hook=hook,
        ceilings=ceilings,
    )
    show(lambda: measure_reload(bench), print_reload, json_file, html_file)
