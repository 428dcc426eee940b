"""Pieces of HTML. Plain strings are escaped wherever they are put in; `Html` is markup already."""

from collections.abc import Iterable, Sequence
from html import escape


class Html(str):
    """Markup that needs no escaping."""


def join(parts: Iterable[str]) -> Html:
    """Return the parts one after another; plain strings are escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def tag(name: str, *content: str, **attributes: str | float | None) -> Html:
    """Return an element. `class_` loses the underscore, `stroke_width` gets a dash."""
    pairs = [
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    return Html(f"<{name}{''.join(pairs)}>{join(content)}</{name}>")


def section(title: str, *content: str) -> Html:
    """Return a part of the page under its heading."""
    return tag("section", tag("h2", title), *content)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """Return a table of numbers in a box that scrolls; the first column names the row."""
    top = tag("tr", *(tag("th", name, scope="col") for name in head))
    body = [
        tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in cells))
        for first, *cells in rows
    ]
    grid = tag("table", tag("thead", top), tag("tbody", *body))
    return tag("div", grid, class_="scroll", tabindex=0)


def facts(values: Iterable[tuple[str, str]]) -> Html:
    """Return a table of names and texts."""
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", text)) for name, text in values]
    grid = tag("table", tag("tbody", *rows), class_="facts")
    return tag("div", grid, class_="scroll", tabindex=0)


def tiles(values: Iterable[tuple[str, str, str]]) -> Html:
    """Return the numbers that matter most: name, value, remark."""
    boxes = [
        tag("div", tag("dt", name), tag("dd", value), tag("dd", remark, class_="remark"))
        for name, value, remark in values
    ]
    return tag("dl", *boxes, class_="tiles")
