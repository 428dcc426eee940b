"""The charts of a load report: latency against rate, distribution, timeline, batches, roofline."""

import math
from collections.abc import Sequence

import numpy as np

from mmsr.engine.bench.ceilings import Ceilings
from mmsr.engine.bench.histograms import bins
from mmsr.engine.bench.page.chart import Axis, Drawing, Series, charts, draw, legend
from mmsr.engine.bench.page.html import Html, join
from mmsr.engine.bench.summary import RunSummary

PERCENTILES = ("p50", "p90", "p99")
MOST_RUNS = 8  # that a chart tells apart, or that have a timeline of their own
NINES = tuple(
    (-math.log10(1 - q), name)
    for q, name in (
        (0.0, "0 %"),
        (0.5, "50 %"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9 %"),
    )
)
CDF_POINTS = 150
TAIL_POINTS = 40  # of the slowest, all of them
FEWEST_SIZES = 4  # on the axis of batch sizes, so that a size of 1 is not the whole width
MS = "ms"


def latency_against_rate(runs: Sequence[RunSummary]) -> Html:
    """Return p50, p90 and p99 by answers a second: open loops as lines, closed ones dashed."""
    figures, series = [], []
    for open_loop, title in ((True, "Open loop"), (False, "Closed loop")):
        chosen = sorted(
            (run for run in runs if run.plan.is_open == open_loop and not run.plan.schedule),
            key=lambda run: run.answered_per_s,
        )
        lines = [_percentile_line(chosen, p, colour) for colour, p in enumerate(PERCENTILES)]
        series += lines
        figures.append(
            draw(
                Drawing(
                    title=title,
                    x=Axis(label="answers a second", zero=True),
                    y=Axis(label=MS, log=True),
                    series=lines,
                )
            )
        )
    shown = [figure for figure in figures if figure]
    return join([legend(series), charts(shown)]) if shown else Html("")


def _percentile_line(runs: Sequence[RunSummary], p: str, colour: int) -> Series:
    points, bounds = [], []
    for run in runs:
        value = run.latency_ms[p]
        if value is not None:
            interval = run.latency_intervals[p]
            points.append((run.answered_per_s, value))
            high = None if interval is None else interval[1]
            bounds.append((interval[0], high) if interval and high is not None else None)
    return Series(name=p, points=points, colour=colour, bounds=bounds)


def distribution(runs: Sequence[RunSummary], names: Sequence[str]) -> Html:
    """Return how many requests were answered within how many ms; the slow ones drawn large."""
    series = [
        Series(
            name=names[place],
            points=cdf_points(run),
            colour=place,
            dashed=not run.plan.is_open,
            dots=False,
        )
        for place, run in enumerate(runs[:MOST_RUNS])
    ]
    drawing = Drawing(
        title="Requests answered within a time",
        x=Axis(label=MS, log=True),
        y=Axis(label="", ticks=NINES, limits=(0.0, NINES[-1][0])),
        series=series,
    )
    return join([legend(series), charts([draw(drawing)])])


def cdf_points(run: RunSummary) -> list[tuple[float, float]]:
    """Return (ms, nines) of a run; failed requests are never answered."""
    values_V, counts_V = bins(run.histogram)
    if not len(values_V) or not run.requests:
        return []
    share_V = np.cumsum(counts_V) / run.requests
    nines_V = -np.log10(np.maximum(1e-9, 1 - share_V))
    # Of the slowest request alone nobody knows how rare it is: the line ends at the one before.
    known = share_V < 1
    values_V, nines_V = values_V[known], nines_V[known]
    step = max(1, len(values_V) // CDF_POINTS)
    tail = np.arange(max(0, len(values_V) - TAIL_POINTS), len(values_V))
    kept = np.union1d(np.arange(0, len(values_V), step), tail)
    return list(zip(values_V[kept].tolist(), nines_V[kept].tolist(), strict=True))


def timelines(runs: Sequence[RunSummary], names: Sequence[str]) -> Html:
    """Return what each second of each run was like; a dashed line is a switch of the model."""
    lines = [Series(name="p99", points=(), colour=2), Series(name="p50", points=(), colour=0)]
    figures = [_timeline(run, name) for run, name in zip(runs[:MOST_RUNS], names, strict=False)]
    return join([legend(lines), charts(figures)])


def _timeline(run: RunSummary, name: str) -> Html:
    middle = [(block.start_s + block.seconds / 2, block) for block in run.blocks]
    dots = len(middle) <= 30
    lines = [
        Series(
            name="p99",
            points=[(at, b.p99_ms) for at, b in middle if b.p99_ms is not None],
            colour=2,
            dots=dots,
        ),
        Series(
            name="p50",
            points=[(at, b.p50_ms) for at, b in middle if b.p50_ms is not None],
            colour=0,
            dots=dots,
        ),
    ]
    refused = sum(block.refused for block in run.blocks)
    remarks = [f"{refused:,} refused"] if refused else []
    return draw(
        Drawing(
            title=f"{name}{', VOID' if run.void else ''}",
            x=Axis(label="seconds after the warm-up", zero=True),
            y=Axis(label=MS, log=True),
            series=lines,
            marks=run.version_changes_s,
            remarks=remarks,
        )
    )


def batch_sizes(runs: Sequence[RunSummary]) -> Html:
    """Return how many batches of each size the server computed."""
    return charts(
        [
            draw(
                Drawing(
                    title=f"{run.plan.name}: batches by size",
                    x=Axis(label="requests in a batch", limits=_sizes(run)),
                    y=Axis(label="", zero=True),
                    bars=[(float(n), count) for n, count in run.server.batch_sizes.items()],
                )
            )
            for run in runs[:MOST_RUNS]
            if run.server.batch_sizes
        ]
    )


def _sizes(run: RunSummary) -> tuple[float, float]:
    return 0.0, float(max([FEWEST_SIZES, *map(int, run.server.batch_sizes)])) + 1


def roofline(runs: Sequence[RunSummary], ceilings: Ceilings) -> Html:
    """Return what the machine allows by batch size, and where the runs lie below it."""
    sizes = [float(size) for size in ceilings.runner_per_s]
    reached = [
        (run.server.batch_size, run.answered_per_s)
        for run in runs
        if run.server.batch_size is not None and run.answered_per_s > 0
    ]
    ends = (1.0, max([*sizes, *(size for size, _ in reached)]))
    series = [
        Series(
            name="memory: the table read once a batch",
            points=[(size, ceilings.memory_per_s(size)) for size in ends],
            colour=3,
            dashed=True,
            dots=False,
        ),
        Series(
            name="the runner alone",
            points=[(float(n), rate) for n, rate in ceilings.runner_per_s.items()],
            colour=1,
        ),
        Series(
            name="bare gRPC",
            points=[(size, ceilings.echo) for size in ends],
            colour=7,
            dashed=True,
            dots=False,
        ),
        Series(name="this server", points=reached, colour=0, line=False),
    ]
    drawing = Drawing(
        title="Requests a second by batch size",
        x=Axis(label="requests in a batch", log=True),
        y=Axis(label="requests/s", log=True),
        series=series,
    )
    return join([legend(series), charts([draw(drawing)])])
