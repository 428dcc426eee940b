"""What the scenario `catalogue` found, for the page: writes, and how many are shown when."""

from typing import Any

import numpy as np

from mmsr.engine.bench.catalogue_tables import (
    COUNTS,
    TIMES,
    TITLES,
    TRAFFIC,
    catalogue_lines,
    count_cells,
    setting,
    time_cells,
    traffic_rows,
)
from mmsr.engine.bench.compare_tables import HEADINGS
from mmsr.engine.bench.histograms import bins
from mmsr.engine.bench.page.chart import Axis, Drawing, Point, Series, charts, draw, legend
from mmsr.engine.bench.page.html import Html, join, section, table, tag
from mmsr.engine.bench.tables import number, short
from mmsr.engine.bench.write_summary import ALL

SHARES = tuple((share / 100, f"{share} %") for share in (0, 25, 50, 75, 100))
SHOWN_ELSEWHERE = ("kinds", "traffic")  # of the findings


def write_sections(found: dict[str, Any]) -> list[Html]:
    """Return the writes, the requests beside them, and how to read both."""
    tables = []
    for what, title in TITLES.items():
        rows = [
            [kind["kind"], *count_cells(kind), *time_cells(kind[what])] for kind in found["kinds"]
        ]
        tables += [tag("h3", title), table(("", *COUNTS, *TIMES), rows)]
    traffic = table(HEADINGS, traffic_rows(found))
    notes = [tag("p", line, class_="notes") for line in [setting(found), *catalogue_lines(found)]]
    return [
        section("Writes shown within a time", shown_within(found)),
        section("Writes", *tables, *notes),
        section(TRAFFIC, traffic),
    ]


def shown_within(found: dict[str, Any]) -> Html:
    """Return the share of the writes of each kind that was acknowledged, and shown, in a time."""
    kinds = [kind for kind in found["kinds"] if kind["kind"] != ALL]
    figures, series = [], []
    for what, title in (("acknowledged", "Acknowledged"), ("shown", "Shown by an answer")):
        lines = [
            Series(
                name=kind["kind"],
                points=share_points(kind[what]["histogram"], kind["writes"]),
                colour=place,
                dots=False,
            )
            for place, kind in enumerate(kinds)
        ]
        series += lines
        figures.append(
            draw(
                Drawing(
                    title=title,
                    x=Axis(label="ms from when the write was meant to be sent", log=True),
                    y=Axis(label="", ticks=SHARES, limits=(0.0, 1.0)),
                    series=lines,
                )
            )
        )
    return join([legend(series), charts(figures)])


def share_points(histogram: str, writes: int) -> list[Point]:
    """Return (ms, share of all writes that had happened by then) as steps."""
    values_V, counts_V = bins(histogram)
    shares_V = np.cumsum(counts_V) / max(1, writes)
    points: list[Point] = []
    before = 0.0
    for ms, share in zip(values_V.tolist(), shares_V.tolist(), strict=True):
        points += [(ms, before), (ms, share)]
        before = share
    return points


def write_tiles(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the numbers that matter most."""
    if not found["kinds"]:
        return []
    whole = found["kinds"][-1]
    ratios = {one["metric"].removesuffix(" ms"): one["ratio"] for one in found["traffic"]}
    highest = next((p for p in ("p99", "p90") if ratios.get(p) is not None), "p50")
    lacking = whole["refused"] + whole["failed"] + whole["not_shown"]
    return [
        ("shown, p50", f"{short(whole['shown']['ms']['p50'])} ms", "from sending the write"),
        ("shown, p90", f"{short(whole['shown']['ms']['p90'])} ms", f"{whole['writes']:,} writes"),
        (
            f"{highest} of the others",
            number(ratios.get(highest)),
            "times that of windows without writes",
        ),
        ("refused, failed, not shown", number(lacking, 0), "writes"),
    ]
