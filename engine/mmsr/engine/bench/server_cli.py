"""`mmsr-bench` for a running server: flags in, a table, JSON and a page out."""

from mmsr.engine.bench.options import (
    ArrivalsOption,
    CeilingsOption,
    ChoiceOption,
    ConcurrencyOption,
    DeadlineOption,
    DurationOption,
    GeneratorsOption,
    HeadlineOption,
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
    Traffic,
    Window,
    make_plans,
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
    show(lambda: measure_server(bench), print_server, json_file)
