"""Line charts as inline SVG that takes its colours from the page: light, dark, any width."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mmsr.training.report.html import Html, join, tag
from mmsr.training.report.page import COLOURS

WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 48, 8, 10, 34
DOTS_UP_TO = 60  # points of a chart; more are drawn as lines alone
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: an epoch and a value at each point."""

    name: str
    points: tuple[Point, ...]
    colour: int = 0  # series of the same colour belong together
    best: float | None = None  # the epoch with a ring round it


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What lies between the two ends of a drawn axis."""

    low: float
    high: float
    begin: float  # where on the paper
    end: float

    def at(self, value: float) -> float:
        """Return where on the paper a value is."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 2)


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Return about `wanted` round numbers from at most `low` to at least `high`."""
    step = nice_step((high - low) / max(1, wanted))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def nice_step(rough: float) -> float:
    """Return the next of 1, 2, 2.5, 5, 10 times a power of ten."""
    if not rough > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))


def number(value: float) -> str:
    """Return a number as short as a label should be."""
    if value != 0 and not 1e-4 <= abs(value) < 1e5:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"


def line_chart(title: str, series: Sequence[Series]) -> Html:
    """Return a figure; values that are no numbers are left out."""
    series = [_finite(s) for s in series]
    values = [y for s in series for _, y in s.points]
    if not values:
        return Html("")
    epochs = [x for s in series for x, _ in s.points]
    spread = max(values) - min(values)
    low, high = min(values), max(values)
    if spread == 0:
        low, high = (0.0, high) if high > 0 else (high - 1, high + 1)
    elif low >= 0 and low < spread:
        low = 0.0  # the eye compares heights: from zero, wherever that costs little
    marks = ticks(low, high, 4)
    y = Axis(low=marks[0], high=marks[-1], begin=HEIGHT - BOTTOM, end=TOP)
    last = max(max(epochs), min(epochs) + 1)
    x = Axis(low=min(epochs), high=last, begin=LEFT, end=WIDTH - RIGHT)
    dots = len(values) <= DOTS_UP_TO
    drawn = [*_frame(x, y, marks), *(_line(s, x, y, dots) for s in series)]
    return figure(title, WIDTH, HEIGHT, drawn)


def figure(title: str, width: float, height: float, drawn: Sequence[str]) -> Html:
    """Return a drawing under its title."""
    svg = tag("svg", *drawn, viewBox=f"0 0 {width} {height}", role="img", aria_label=title)
    return tag("figure", tag("figcaption", title), svg)


def legend(series: Sequence[Series]) -> Html:
    """Return what the colours mean, each name once."""
    firsts = {s.name: s for s in reversed(series)}
    entries = [tag("li", _sample(s.colour), name) for name, s in reversed(list(firsts.items()))]
    return tag("ul", *entries, class_="legend")


def stroke(colour: int) -> str:
    """Return the classes of a line: beyond the colours that there are, it is dashed."""
    return f"series c{colour % COLOURS} dashed-{min(2, colour // COLOURS)}"


def _sample(colour: int) -> Html:
    line = tag("line", x1=0, y1=4, x2=22, y2=4, class_=stroke(colour))
    return tag("svg", line, viewBox="0 0 22 8", aria_hidden="true")


def _finite(series: Series) -> Series:
    points = tuple((x, y) for x, y in series.points if math.isfinite(x) and math.isfinite(y))
    return Series(name=series.name, points=points, colour=series.colour, best=series.best)


def _frame(x: Axis, y: Axis, marks: Sequence[float]) -> list[Html]:
    drawn = []
    for mark in marks:
        at = y.at(mark)
        drawn.append(tag("line", x1=x.begin, y1=at, x2=x.end, y2=at, class_="grid"))
        drawn.append(label(number(mark), x.begin - 6, at + 4, "end"))
    drawn += [label(f"{e:g}", x.at(e), y.begin + 15, "middle") for e in _epochs(x)]
    return [*drawn, label("epoch", (x.begin + x.end) / 2, y.begin + 30, "middle")]


def _epochs(x: Axis) -> list[float]:
    """Return the epochs that are named: the first, then round ones."""
    step = math.ceil(nice_step((x.high - x.low) / 6))
    round_ones = [i * step for i in range(1, int(x.high / step + 1e-9) + 1)]
    return [x.low, *(e for e in round_ones if e > x.low + step / 2)]


def label(text: str, x: float, y: float, anchor: str) -> Html:
    """Return a text of a drawing."""
    return tag("text", text, x=x, y=y, text_anchor=anchor)


def _line(series: Series, x: Axis, y: Axis, dots: bool) -> Html:
    at = [(x.at(epoch), y.at(value)) for epoch, value in series.points]
    path = " ".join(f"{left},{top}" for left, top in at)
    drawn = [tag("polyline", points=path, class_=stroke(series.colour))]
    fill = f"f{series.colour % COLOURS}"
    for (epoch, value), (left, top) in zip(series.points, at, strict=True):
        name = tag("title", f"{series.name}, epoch {epoch:g}: {value:.4g}")
        if epoch == series.best:
            line = stroke(series.colour)
            drawn.append(tag("circle", name, cx=left, cy=top, r=5, class_=line))
        if dots:
            drawn.append(tag("circle", name, cx=left, cy=top, r=2.2, class_=fill))
    return tag("g", *drawn)


def charts(figures: Sequence[Html]) -> Html:
    """Return figures side by side as far as there is room."""
    return tag("div", join(f for f in figures if f), class_="charts")
