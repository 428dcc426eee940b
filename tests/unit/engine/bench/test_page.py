"""The page for a browser: whole, of one file, with every chart; and what charts are made of."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support.load_report import load_report
from support.runner_reports import encode_report, engine_report, retrain_report

from mmsr.engine.bench.page.chart import Axis, Drawing, Scale, Series, draw, log_ticks, ticks
from mmsr.engine.bench.page.document import load_page, page_of, write_page
from mmsr.engine.bench.page.load_charts import cdf_points
from mmsr.engine.bench.report import ServerReport
from mmsr.engine.bench.server_side import ServerProcess
from mmsr.engine.bench.tables import notes, print_server

VOID_TAGS = {"meta", "br"}


class Checker(HTMLParser):
    """Counts elements, and fails on one that is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report() -> ServerReport:
    return load_report(target="<b>host</b>:1")


@pytest.fixture(scope="module")
def text(report: ServerReport) -> str:
    return load_page(report)


def test_every_element_is_closed_and_every_chart_is_there(text: str) -> None:
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == [
        "What a client sees",
        "Latency against rate",
        "Distribution",
        "Second by second",
        "Batches",
        "Roofline",
        "Findings",
        "How to read this",
        "Where and how",
    ]
    # Open and closed loop, distribution, four timelines, four of batches, roofline.
    assert checker.count["figure"] == 12


def test_the_page_loads_nothing(text: str) -> None:
    assert not re.search(r"(src|href)=|url\(|@import|<script", text)
    assert "default-src 'none'" in text


def test_the_page_is_made_for_dark_rooms_and_phones(text: str) -> None:
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport" content="width=device-width' in text


@pytest.mark.parametrize(
    ("report_of", "headings", "said"),
    [
        (
            engine_report,
            ["The runner alone, and where its time goes", "By batch size", "Where and how"],
            "items 500",
        ),
        (
            encode_report,
            ["From file or text to feature", "By batch size", "Where and how"],
            "the graph alone, on ready tensors",
        ),
        (
            lambda root: retrain_report(),
            ["Stages", "Findings", "Where and how"],
            "Interrupted: this is what was measured so far.",
        ),
    ],
)
def test_what_is_measured_without_a_server_has_a_page_too(
    report_of: Callable[[Path], Any], headings: list[str], said: str, tmp_path: Path
) -> None:
    page = page_of(report_of(tmp_path / "r"))
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert re.findall(r"<h2>(.*?)</h2>", page) == headings
    assert said in page


def test_a_stage_is_a_bar_as_long_as_its_share() -> None:
    page = page_of(retrain_report())
    assert re.findall(r'<rect [^>]*width="([0-9.]+)"', page) == [
        "20.0",
        "10.0",
        "10.0",
        "5.0",
        "55.0",
    ]


def test_names_are_escaped(text: str) -> None:
    assert "<b>host" not in text
    assert "&lt;b&gt;host" in text


def test_a_page_is_written_whole(report: ServerReport, tmp_path: Path) -> None:
    write_page(tmp_path / "r.html", report)
    assert (tmp_path / "r.html").read_text().endswith("</html>\n")


def test_the_tables_fit_a_terminal_of_80_columns(report: ServerReport) -> None:
    out = StringIO()
    print_server(Console(file=out, width=80), report)
    assert "…" not in out.getvalue()
    assert "Share of the ceilings of this machine" in out.getvalue()


def test_the_lag_the_warm_up_and_a_void_run_are_printed_as_they_are(report: ServerReport) -> None:
    late = replace(
        report.runs[1],
        lag_ms={"p50": 1.83, "p90": 5.0, "p99": 11.4},
        warm_up_requests=123_456,
        void="the generator itself was late",
    )
    out = StringIO()
    print_server(Console(file=out, width=80), replace(report, runs=[late]))
    text = out.getvalue()
    rows = [line.split() for line in text.splitlines() if line.startswith(" VOID 100/s")]
    assert len(rows) == 5  # in every table that it stands in
    assert rows[3][-2:] == ["1.83", "11.4"]
    assert "the first 1 s of each run, 123,456 requests in all" in text
    assert "open, 100/s: VOID, the generator itself was late" in text


@pytest.mark.parametrize(("generator_us", "said"), [(700.0, False), (701.0, True)])
def test_a_generator_that_costs_nearly_as_much_as_the_server_is_told(
    report: ServerReport, generator_us: float, said: bool
) -> None:
    process = ServerProcess(cpu_us=1000.0, cpu_cores=0.5, memory_mib=[])
    run = replace(report.runs[1], process=process, generator_cpu_us=generator_us)
    text = "\n".join(notes(replace(report, runs=[run])))
    assert ("open, 100/s: the generator costs 0.70 of the server's CPU time" in text) == said


def test_the_distribution_ends_before_the_slowest_request(report: ServerReport) -> None:
    run = report.runs[1]
    points = cdf_points(run)
    values, nines = np.array(points).T
    assert np.all(np.diff(values) > 0)
    assert np.all(np.diff(nines) >= 0)
    assert nines[-1] <= np.log10(run.requests) + 1e-9
    assert values[-1] < run.max_latency_ms


def test_a_scale_maps_its_ends_and_clips_what_is_outside() -> None:
    linear = Scale(low=0, high=10, begin=50, end=150)
    assert [linear.at(v) for v in (0, 5, 10, 99)] == [50, 100, 150, 150]
    log = Scale(low=1, high=100, begin=200, end=0, log=True)
    assert [log.at(v) for v in (1, 10, 100, 0)] == [200, 100, 0, 200]


def test_ticks_are_round_numbers() -> None:
    assert ticks(0, 87) == [0, 25, 50, 75, 100]
    assert log_ticks(0.9, 25) == pytest.approx([1, 2, 5, 10, 20])
    assert log_ticks(0.01, 20000) == pytest.approx([0.01, 0.1, 1, 10, 100, 1000, 10000])


def test_a_chart_of_nothing_is_nothing() -> None:
    axis = Axis(label="x")
    assert draw(Drawing(title="t", x=axis, y=axis, series=[Series(name="s", points=())])) == ""


def test_marks_and_bounds_are_drawn() -> None:
    series = Series(name="s", points=[(1.0, 2.0), (3.0, 4.0)], bounds=[(1.0, 3.0), None])
    axis = Axis(label="a")
    figure = draw(Drawing(title="t", x=axis, y=axis, series=[series], marks=[2.0]))
    assert figure.count('class="mark"') == 1
    assert len(re.findall(r'<line [^>]*class="series c0"', figure)) == 1
