"""Charts as inline SVG that takes its colours from the page. Numbers in, markup out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmsr.engine.bench.page.frame import COLOURS
from mmsr.engine.bench.page.html import Html, tag

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 36
FEW_TIMES = 200  # from one end of a logarithmic axis to the other
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line; with `bounds`, a bar from low to high at each point."""

    name: str
    points: Sequence[Point]
    colour: int = 0
    dashed: bool = False
    line: bool = True  # else dots alone
    dots: bool = True
    bounds: Sequence[tuple[float, float] | None] = ()


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From values to places on the paper, linear or by logarithm."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return where on the paper a value is; what is outside lies on the edge."""
        low, high, value = (self._of(v) for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.begin + min(1.0, max(0.0, share)) * (self.end - self.begin), 2)

    def _of(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self.log else value


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What a chart says of one of its directions."""

    label: str
    log: bool = False
    ticks: Sequence[tuple[float, str]] = ()  # empty: round numbers
    zero: bool = False  # begins at 0
    limits: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A chart before it is drawn."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series] = ()
    marks: Sequence[float] = ()  # vertical lines at these x
    bars: Sequence[Point] = ()  # from y = 0
    remarks: Sequence[str] = field(default_factory=tuple)


def draw(drawing: Drawing) -> Html:
    """Return a figure; nothing where there is nothing to draw."""
    points = [p for s in drawing.series for p in s.points] + list(drawing.bars)
    points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return Html("")
    tops = [b for s in drawing.series for bound in s.bounds if bound for b in bound]
    x = _scale(drawing.x, [at for at, _ in points], LEFT, WIDTH - RIGHT)
    y = _scale(drawing.y, [at for _, at in points] + tops, HEIGHT - BOTTOM, TOP)
    drawn = [*_frame(drawing, x, y), *_bars(drawing, x, y)]
    for mark in drawing.marks:
        at = x.at(mark)
        drawn.append(tag("line", x1=at, y1=TOP, x2=at, y2=HEIGHT - BOTTOM, class_="mark"))
    drawn += [_series(series, x, y) for series in drawing.series]
    svg = tag("svg", *drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=drawing.title)
    return tag(
        "figure",
        tag("figcaption", drawing.title),
        svg,
        *(tag("p", remark, class_="notes") for remark in drawing.remarks),
    )


def legend(series: Sequence[Series]) -> Html:
    """Return what the colours mean, each name once."""
    entries = {s.name: tag("li", _sample(s), s.name) for s in series}
    return tag("ul", *entries.values(), class_="legend")


def charts(figures: Sequence[Html]) -> Html:
    """Return figures side by side as far as there is room."""
    return tag("div", *(figure for figure in figures if figure), class_="charts")


def number(value: float) -> str:
    """Return a number as short as a label should be."""
    if value >= 10_000:
        return f"{value / 1000:g}k" if value < 1e6 else f"{value / 1e6:g}M"
    return f"{value:.4g}"


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Return about `wanted` round numbers from at most `low` to at least `high`."""
    step = nice_step((high - low) / wanted)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def nice_step(rough: float) -> float:
    """Return the next of 1, 2, 2.5, 5, 10 times a power of ten."""
    if not rough > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten between the ends; 2 and 5 times them too where they are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high <= FEW_TIMES * low else (1,)
    found = [factor * 10.0**power for power in powers for factor in factors]
    return [tick for tick in found if low * 0.999 <= tick <= high * 1.001]


def _scale(axis: Axis, values: Sequence[float], begin: float, end: float) -> Scale:
    if axis.limits is not None:
        low, high = axis.limits
    elif axis.log:
        positive = [v for v in values if v > 0] or [1.0]
        low, high = min(positive) / 1.15, max(positive) * 1.15
    else:
        low = 0.0 if axis.zero else min(values)
        marks = ticks(low, max([*values, low + 1e-9]))
        low, high = marks[0], marks[-1]
    return Scale(low=low, high=high, begin=begin, end=end, log=axis.log)


def _named(axis: Axis, scale: Scale) -> Sequence[tuple[float, str]]:
    if axis.ticks:
        return axis.ticks
    marks = log_ticks(scale.low, scale.high) if scale.log else ticks(scale.low, scale.high)
    inside = [mark for mark in marks if scale.low <= mark <= scale.high * (1 + 1e-9)]
    return [(mark, number(mark)) for mark in inside]


def _frame(drawing: Drawing, x: Scale, y: Scale) -> list[Html]:
    drawn = []
    for value, name in _named(drawing.y, y):
        at = y.at(value)
        drawn.append(tag("line", x1=x.begin, y1=at, x2=x.end, y2=at, class_="grid"))
        drawn.append(_label(name, x.begin - 6, at + 4, "end"))
    drawn += [_label(name, x.at(v), y.begin + 15, "middle") for v, name in _named(drawing.x, x)]
    drawn.append(_label(drawing.x.label, (x.begin + x.end) / 2, y.begin + 31, "middle"))
    drawn.append(_label(drawing.y.label, 2, TOP - 1, "start") if drawing.y.label else Html(""))
    return drawn


def _bars(drawing: Drawing, x: Scale, y: Scale) -> list[Html]:
    width = max(2.0, min(24.0, (x.end - x.begin) / max(1, len(drawing.bars)) * 0.7))
    base = y.at(y.low)
    return [
        tag(
            "rect",
            tag("title", f"{at:g}: {height:,.0f}"),
            x=round(x.at(at) - width / 2, 2),
            y=y.at(height),
            width=round(width, 2),
            height=round(max(0.5, base - y.at(height)), 2),
            class_="bar f0",
        )
        for at, height in drawing.bars
    ]


def _series(series: Series, x: Scale, y: Scale) -> Html:
    colour = series.colour % COLOURS
    finite = [(a, b) for a, b in series.points if math.isfinite(a) and math.isfinite(b)]
    path = " ".join(f"{x.at(a)},{y.at(b)}" for a, b in finite)
    line = f"series c{colour}{' dashed' if series.dashed else ''}"
    drawn = [tag("polyline", points=path, class_=line)] if series.line and len(finite) > 1 else []
    for (a, _), bound in zip(series.points, series.bounds, strict=False):
        if bound is not None:
            low, high = (y.at(value) for value in bound)
            drawn.append(tag("line", x1=x.at(a), y1=low, x2=x.at(a), y2=high, class_=line))
    if series.dots:
        drawn += [
            tag(
                "circle",
                tag("title", f"{series.name}: {number(b)} at {number(a)}"),
                cx=x.at(a),
                cy=y.at(b),
                r=2.6,
                class_=f"f{colour}",
            )
            for a, b in finite
        ]
    return tag("g", *drawn)


def _label(text: str, x: float, y: float, anchor: str) -> Html:
    return tag("text", text, x=round(x, 2), y=round(y, 2), text_anchor=anchor)


def _sample(series: Series) -> Html:
    line = f"series c{series.colour % COLOURS}{' dashed' if series.dashed else ''}"
    drawn = tag("line", x1=0, y1=4, x2=22, y2=4, class_=line)
    return tag("svg", drawn, viewBox="0 0 22 8", aria_hidden="true")
