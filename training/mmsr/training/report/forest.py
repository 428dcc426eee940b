"""Differences with their intervals, as a forest plot in a table: a dot, a line, and zero."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmsr.training.report.charts import Axis, label, number, ticks
from mmsr.training.report.html import Html, tag

WIDTH, HEIGHT, PADDING = 272, 22, 14
NEAR = 2.0  # times the length of the scale without them, on either side


@dataclass(frozen=True, kw_only=True)
class Interval:
    """One line of the plot."""

    name: str
    mean: float
    low: float
    high: float
    scales: bool = True  # false: if it lies far off the others, an arrow points there


def forest_plot(head: Sequence[str], intervals: Sequence[Interval]) -> Html:
    """Return a table with a drawn column; all its lines share one scale, marked at the foot."""
    low, high = _ends(intervals)
    marks = ticks(low, high if high > low else low + 1e-3, 3)
    axis = Axis(low=marks[0], high=marks[-1], begin=PADDING, end=WIDTH - PADDING)
    rows = [
        tag(
            "tr",
            tag("th", interval.name, scope="row"),
            tag("td", _drawn(interval, axis)),
            tag("td", f"{interval.mean:+.4f}"),
            tag("td", f"{interval.low:+.4f} to {interval.high:+.4f}"),
        )
        for interval in intervals
    ]
    foot = tag("tr", tag("th"), tag("td", _scale(axis, marks)), tag("td"), tag("td"))
    top = tag("tr", *(tag("th", name, scope="col") for name in head))
    grid = tag("table", tag("thead", top), tag("tbody", *rows, foot), class_="forest")
    return tag("div", grid, class_="scroll", tabindex=0)


def _ends(intervals: Sequence[Interval]) -> tuple[float, float]:
    """Return the ends of the scale: zero, what scales, and of the others what lies near that."""
    drawn = [i for i in intervals if i.scales] or intervals
    low, high = min([0.0, *(i.low for i in drawn)]), max([0.0, *(i.high for i in drawn)])
    reach = NEAR * (high - low)
    near = [i for i in intervals if low - reach <= i.low and i.high <= high + reach]
    return min([low, *(i.low for i in near)]), max([high, *(i.high for i in near)])


def _drawn(interval: Interval, axis: Axis) -> Html:
    # Blue is better than zero, red-brown is worse, grey may be either.
    colour = 0 if interval.low > 0 else 1 if interval.high < 0 else 7
    text = f"{interval.name}: {interval.mean:+.4f}, {interval.low:+.4f} to {interval.high:+.4f}"
    zero = axis.at(0.0)
    return tag(
        "svg",
        tag("title", text),
        tag("line", x1=zero, x2=zero, y1=-60, y2=HEIGHT + 60, class_="axis"),
        *_mark(interval, axis, colour),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
    )


def _mark(interval: Interval, axis: Axis, colour: int) -> list[Html]:
    middle, line, fill = HEIGHT / 2, f"series c{colour}", f"f{colour}"
    if not axis.low <= interval.mean <= axis.high:
        left, tip = (axis.begin, -8) if interval.mean < axis.low else (axis.end, 8)
        corners = f"{left},{middle - 5} {left},{middle + 5} {left + tip},{middle}"
        return [tag("polygon", points=corners, class_=fill)]
    low, high = (axis.at(min(max(v, axis.low), axis.high)) for v in (interval.low, interval.high))
    ends = [
        tag("line", x1=at, x2=at, y1=middle - 4, y2=middle + 4, class_=line) for at in (low, high)
    ]
    bar = tag("line", x1=low, x2=high, y1=middle, y2=middle, class_=line)
    return [bar, *ends, tag("circle", cx=axis.at(interval.mean), cy=middle, r=4, class_=fill)]


def _scale(axis: Axis, marks: Sequence[float]) -> Html:
    labels = [label(number(mark), axis.at(mark), 15, "middle") for mark in marks]
    line = tag("line", x1=axis.begin, x2=axis.end, y1=1, y2=1, class_="grid")
    return tag("svg", line, *labels, viewBox=f"0 0 {WIDTH} {HEIGHT}", aria_hidden="true")
