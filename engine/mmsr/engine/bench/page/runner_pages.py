"""Pages of what was measured without a load: the runner alone, encoders, the way of a retrain."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mmsr.engine.bench.page.chart import Axis, Drawing, Point, Series, charts, draw, legend
from mmsr.engine.bench.page.frame import COLOURS, page
from mmsr.engine.bench.page.html import Html, facts, join, section, table, tag, tiles
from mmsr.engine.bench.page.values import environment_facts, plain
from mmsr.engine.bench.runner_tables import (
    ENCODE_TITLE,
    ENGINE_TITLE,
    GB_NOTE,
    RATIO_NOTE,
    RATIO_TITLE,
    WHOLE_WAY,
    combination,
    encode_lines,
    encode_rows,
    engine_lines,
    engine_rows,
    ratio_rows,
    retrain_lines,
)
from mmsr.engine.bench.tables import number, share, short

if TYPE_CHECKING:
    from mmsr.engine.bench.engine_bench import BatchSummary, EngineReport
    from mmsr.engine.bench.report import RunnerReport

BY_BATCH = "batch size"


def runner_page(report: Any) -> str:
    """Return the page of a report that is of no running server."""
    pages: dict[str, Callable[[Any], list[Html]]] = {
        "engine": _engine,
        "encode": _encode,
        "retrain": _retrain,
    }
    content = pages[report.scenario](report)
    if report.interrupted:
        content.append(tag("p", "Interrupted: this is what was measured so far.", class_="void"))
    content.append(section("Where and how", facts(environment_facts(report.environment))))
    title, subtitle = f"mmsr-bench {report.scenario}", f"bundle {report.bundle_id}"
    return page(title, subtitle, content, report.environment.time)


def _notes(lines: Sequence[str]) -> list[Html]:
    return [tag("p", line, class_="notes") for line in lines]


def _engine(report: "EngineReport") -> list[Html]:
    runs = report.runs
    fastest = max(runs, key=lambda run: run.requests_per_s)
    shortest = min(runs, key=lambda run: run.measured_s / run.batches)
    nearest = max(runs, key=lambda run: run.share_of_memory)
    values = [
        ("most requests", f"{number(fastest.requests_per_s, 0)}/s", _name(fastest, runs)),
        (
            "shortest batch, on average",
            f"{short(shortest.measured_s / shortest.batches * 1e3)} ms",
            _name(shortest, runs),
        ),
        ("most of the memory's rate", share(nearest.share_of_memory), _name(nearest, runs)),
    ]
    return [
        tiles(values),
        section(ENGINE_TITLE, *_notes(engine_lines(report)), table(*engine_rows(runs))),
        _bundles(report),
        section("By batch size", _engine_charts(runs), *_notes([GB_NOTE])),
    ]


def _bundles(report: "EngineReport") -> Html:
    if not report.ratios:
        return Html("")
    return section(RATIO_TITLE, table(*ratio_rows(report)), *_notes([RATIO_NOTE]))


def _name(run: "BatchSummary", runs: Sequence["BatchSummary"]) -> str:
    return ", ".join(filter(None, (f"batch {run.batch}", combination(run, runs))))


def _engine_charts(runs: Sequence["BatchSummary"]) -> Html:
    """Return requests a second, mean time of a batch and share of memory, a line a combination."""
    kinds: dict[str, list[BatchSummary]] = {}
    for run in sorted(runs, key=lambda run: run.batch):
        kinds.setdefault(combination(run, runs) or "this bundle", []).append(run)
    values: dict[str, tuple[str, Callable[[BatchSummary], float], bool]] = {
        "Requests a second": ("", lambda run: run.requests_per_s, False),
        "Mean time of a batch": (
            "ms",
            lambda run: run.measured_s / run.batches * 1e3,
            True,
        ),
        "Share of the memory's rate": ("%", lambda run: run.share_of_memory * 100, False),
    }
    figures, series = [], []
    for title, (unit, value_of, log) in values.items():
        lines = [
            _line(name, [(float(run.batch), value_of(run)) for run in some], place)
            for place, (name, some) in enumerate(kinds.items())
        ]
        series += lines
        figures.append(_by_batch(title, lines, Axis(label=unit, log=log, zero=not log)))
    return join([legend(series), charts(figures)])


def _line(name: str, points: Sequence[Point], place: int, *, dashed: bool = False) -> Series:
    """Return a line; beyond the colours that there are the lines are dashed."""
    again = place >= COLOURS
    return Series(name=name, points=points, colour=place % COLOURS, dashed=dashed or again)


def _by_batch(title: str, lines: Sequence[Series], y: Axis) -> Html:
    sizes = sorted({size for line in lines for size, _ in line.points})
    marks = [(size, f"{size:g}") for size in sizes]
    x = Axis(label=BY_BATCH, log=True, ticks=marks)
    return draw(Drawing(title=title, x=x, y=y, series=lines))


def _encode(report: "RunnerReport") -> list[Html]:
    names = list(dict.fromkeys(run.encoder for run in report.runs))
    best = [
        max((r for r in report.runs if r.encoder == name), key=lambda run: run.whole_per_s)
        for name in names
    ]
    values = [
        (
            run.encoder.replace("_", " "),
            f"{short(run.whole_per_s)}/s",
            f"batch {run.batch}, {share(run.share)} of the graph alone",
        )
        for run in best
    ]
    figures, series = [], []
    for name in names:
        some = sorted((r for r in report.runs if r.encoder == name), key=lambda run: run.batch)
        lines = [
            _line("from file or text", [(float(r.batch), r.whole_per_s) for r in some], 0),
            _line(
                "the graph alone, on ready tensors",
                [(float(r.batch), r.ready_per_s) for r in some],
                1,
                dashed=True,
            ),
        ]
        series += lines
        title = f"{name.replace('_', ' ')}: items a second"
        figures.append(_by_batch(title, lines, Axis(label="", zero=True)))
    return [
        tiles(values),
        section(ENCODE_TITLE, *_notes(encode_lines(report)), table(*encode_rows(report.runs))),
        section("By batch size", legend(series), charts(figures)),
    ]


def _retrain(report: "RunnerReport") -> list[Html]:
    found = report.findings
    longest = max(report.runs, key=lambda stage: stage.seconds)
    values = [
        (WHOLE_WAY, f"{short(found['export_to_answer_s'])} s", "the training not counted"),
        ("label to first new answer", f"{short(found['label_to_answer_s'])} s", ""),
        ("longest stage", f"{short(longest.seconds)} s", longest.name),
    ]
    rows = [
        [stage.name, short(stage.seconds), share(stage.share), _bar(stage.share)]
        for stage in report.runs
    ]
    rows.append([WHOLE_WAY, short(found["export_to_answer_s"]), "100%", ""])
    return [
        tiles(values),
        section("Stages", table(("stage", "s", "of it", ""), rows), *_notes(retrain_lines(report))),
        section("Findings", facts(plain(found))),
    ]


def _bar(part: float) -> Html:
    """Return a share of the whole as a bar."""
    drawn = tag("rect", x=0, y=0, width=round(100 * part, 2), height=10, class_="f0")
    return tag("svg", drawn, viewBox="0 0 100 10", class_="part", preserveAspectRatio="none")
