"""`mmsr-bench compare`: two reports, or two running servers."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mmsr.engine.bench.options import (
    DeadlineOption,
    DurationOption,
    HtmlOption,
    JsonOption,
    KOption,
    LabelOption,
    SeedOption,
    SloOption,
    WarmUpOption,
)
from mmsr.engine.bench.plan import (
    BenchError,
    Loads,
    Traffic,
    Window,
    make_plans,
)
from mmsr.engine.bench.present import show

DEFAULT_LIVE_RATE = "200"


def compare(
    a: Annotated[str, typer.Argument(help="A report's JSON; with --live, HOST:PORT.")],
    b: Annotated[str, typer.Argument(help="What is compared with it, of the same kind.")],
    max_regression: Annotated[
        str, typer.Option(help="How much worse B may be, surely: exit code 4 above that.")
    ] = "5%",
    live: Annotated[
        bool, typer.Option("--live", help="A and B are running servers: measure both in turn.")
    ] = False,
    rounds: Annotated[int, typer.Option(help="With --live: runs of each side, A B B A …")] = 5,
    repository: Annotated[
        Path | None, typer.Option(help="With --live: repository whose histories are sent.")
    ] = None,
    label: LabelOption = "stable",
    concurrency: Annotated[
        str | None, typer.Option(help="With --live: closed loops of so many callers.")
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(help="With --live: open loops. Default 200 a second, if no closed one."),
    ] = None,
    slo_ms: SloOption = 50.0,
    duration_s: DurationOption = 15.0,
    warm_up_s: WarmUpOption = 2.0,
    deadline_ms: DeadlineOption = 5000,
    k: KOption = 20,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
    html_file: HtmlOption = None,
) -> None:
    """Compare two reports, or two running servers, as ratios with intervals."""
    from mmsr.engine.bench.compare import compare_files, parse_percent
    from mmsr.engine.bench.compare_tables import print_comparison
    from mmsr.engine.bench.live import LiveBench, compare_live
    from mmsr.engine.bench.machine import describe_environment
    from mmsr.engine.bench.server_bench import Subject

    limit = parse_percent(max_regression)
    if live:
        if repository is None:
            raise BenchError("--live sends a bundle's histories: name its --repository")
        if concurrency is None and rate is None:
            rate = DEFAULT_LIVE_RATE
        loads = Loads(concurrency=concurrency, rate=rate)
        window = Window(
            warm_up_s=warm_up_s, duration_s=duration_s, deadline_ms=deadline_ms, seed=seed
        )
        bench = LiveBench(
            subject=Subject(target=a, repository=repository, label=label, k=k),
            other=b,
            plans=make_plans(loads, window, Traffic(slo_ms=slo_ms)),
            rounds=rounds,
            max_regression=limit,
        )
        measure = partial(compare_live, bench)
    else:
        measure = partial(compare_files, Path(a), Path(b), limit, describe_environment())
    show(measure, print_comparison, json_file, html_file)
