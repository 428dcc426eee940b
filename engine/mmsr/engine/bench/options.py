"""The flags that several scenarios of `mmsr-bench` share, and what they become."""

from pathlib import Path
from typing import Annotated

import typer

from mmsr.engine.bench.plan import DEFAULT_CONCURRENCY, DEFAULT_RATE

TargetArgument = Annotated[str, typer.Argument(help="HOST:PORT of a running mmsr-serve.")]
RepositoryOption = Annotated[Path, typer.Option(help="Repository that holds the bundle.")]
LabelOption = Annotated[str, typer.Option(help="Label of the bundle in the repository.")]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Also write everything here, raw histograms too.")
]
ConcurrencyOption = Annotated[
    str | None,
    typer.Option(
        help="Closed loop: this many callers, each sending when its last request ended. "
        f"Default {DEFAULT_CONCURRENCY}, or none if another load is given."
    ),
]
RateOption = Annotated[
    str | None,
    typer.Option(
        help="Open loop: requests per second, whatever the server does. "
        f"Default {DEFAULT_RATE}, or none if another load is given."
    ),
]
RampOption = Annotated[
    str | None, typer.Option(help="Open loop that rises evenly: FROM:TO requests per second.")
]
StepOption = Annotated[
    str | None,
    typer.Option(help="Open loop in equal steps of time, e.g. 100,400,100 requests per second."),
]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", help="Also write a page for a browser here; no network.")
]
KOption = Annotated[int, typer.Option(help="Items asked for.")]
DurationOption = Annotated[float, typer.Option(help="Measured seconds of each run.")]
WarmUpOption = Annotated[float, typer.Option(help="Seconds before that, not counted.")]
DeadlineOption = Annotated[int, typer.Option(help="Deadline of every request.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of the arrivals and the order of histories.")]
ArrivalsOption = Annotated[
    str, typer.Option(help="Of an open loop: poisson (independent users) or constant.")
]
ChoiceOption = Annotated[
    str, typer.Option(help="Which history comes next: in-order, uniform or zipf.")
]
GeneratorsOption = Annotated[
    int, typer.Option(help="Processes that send; more where one core cannot send enough.")
]
SloOption = Annotated[float, typer.Option(help="An answer within this time is a good one.")]
PidOption = Annotated[
    int | None,
    typer.Option(
        help="Process of the server, for its CPU and memory.",
        show_default="who listens at the target, if on this machine",
    ),
]
CeilingsOption = Annotated[
    bool, typer.Option(help="Also measure echo, runner and memory alone: about 15 s more.")
]
HeadlineOption = Annotated[
    bool, typer.Option("--headline", help="Percentiles only from MLPerf's sample counts on.")
]
