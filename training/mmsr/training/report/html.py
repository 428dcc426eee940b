"""Pieces of HTML. Plain strings are escaped wherever they are put in; `Html` is markup already."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


class Html(str):
    """Markup that needs no escaping."""


def join(parts: Iterable[str]) -> Html:
    """Return the parts one after another; plain strings are escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def tag(name: str, *content: str, **attributes: str | float | None) -> Html:
    """Return an element. `class_` and the like lose the underscore, `stroke_width` gets a dash."""
    pairs = [
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    return Html(f"<{name}{''.join(pairs)}>{join(content)}</{name}>")


def section(title: str, *content: str) -> Html:
    """Return a part of the page under its heading."""
    return tag("section", tag("h2", title), *content)


def folded(title: str, *content: str) -> Html:
    """Return what a reader may open."""
    return tag("details", tag("summary", title), *content)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str | None = None) -> Html:
    """Return a table in a box of its own that scrolls; the first column names the row.

    It is made for numbers; of kind "texts", for words.
    """
    top = tag("tr", *(tag("th", name, scope="col") for name in head))
    body = [
        tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in cells))
        for first, *cells in rows
    ]
    grid = tag("table", tag("thead", top), tag("tbody", *body), class_=kind)
    return tag("div", grid, class_="scroll", tabindex=0)


def facts(values: dict[str, Any]) -> Html:
    """Return a table of names and values; what is nested goes by dotted names."""
    rows = [tag("tr", tag("th", key, scope="row"), tag("td", text)) for key, text in flat(values)]
    grid = tag("table", tag("tbody", *rows), class_="facts")
    return tag("div", grid, class_="scroll", tabindex=0)


def spoken(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values under names as people write them: without underscores."""
    return {
        key.replace("_", " "): spoken(value) if isinstance(value, dict) else value
        for key, value in values.items()
    }


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return every value as text, under its dotted name."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            found += flat(value, f"{name}.")
        else:
            found.append((name, plain(value)))
    return found


def plain(value: Any) -> str:
    """Return a value as a person writes it."""
    if value is None or value in ([], (), {}):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(v) for v in value)
    return str(value)


def metric(value: float) -> str:
    """Return a metric with the four digits that are usual."""
    return f"{value:.4f}"


def tiles(values: Sequence[tuple[str, str, str]]) -> Html:
    """Return the numbers that matter most: name, value, remark."""
    boxes = [
        tag(
            "div",
            tag("dt", name),
            tag("dd", value),
            tag("dd", remark, class_="remark"),
        )
        for name, value, remark in values
    ]
    return tag("dl", *boxes, class_="tiles")
