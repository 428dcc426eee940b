"""Draws an explanation: the history in pictures, who looks at what, what is recommended."""

# S history items that are shown, M sources

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmsr.training.explain.canvas import DOTS_PER_INCH, MUTED, Box, Pen, Sheet, wrap
from mmsr.training.explain.explanation import Explanation, ShownItem
from mmsr.training.explain.pictures import Pixels, thumbnail

Pictures = Callable[[ShownItem], Pixels | None]

MARGIN, LABELS = 0.35, 1.15  # inches, as all below
CELL, ROW = 1.0, 0.32
PICTURE, TITLE = 0.95, 0.42
MAP_MIN, MAP_MAX, MAP_GAP = 1.05, 1.7, 0.22
STRIPS_HEADING, FUSED_GAP = 0.34, 0.1
RECOMMENDED, RECOMMENDED_ACROSS = PICTURE + TITLE + 0.32, 10
STANDS_OUT = 3.0  # times the even share of attention has the darkest colour, or more does
REMARK = 1.55  # from a heading's begin to the remark beside it
SMALL = Pen(size=7, across="center")
PICTURE_PX = int(PICTURE * DOTS_PER_INCH)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The part of an explanation that is drawn: the newest S items of the history."""

    older: int  # items that are read and not shown
    names: tuple[str, ...]  # of the rows: every source, then "fused"
    last_RS: npt.NDArray[np.float32]  # R rows: attention of the last position, in names' order
    older_R: npt.NDArray[np.float32]  # what of it falls on the older items together
    maps_RSS: npt.NDArray[np.float32]  # attention of every shown position on the shown items
    floor: float  # shares that are small all round are not painted as if one of them stood out


def newest(explanation: Explanation, items: int) -> Shown:
    """Return what is drawn when at most `items` of the history are shown."""
    length = len(explanation.history)
    begin = max(0, length - items)
    every_RLL = np.concatenate([explanation.alone_MLL, explanation.fused_LL[None]])
    return Shown(
        older=begin,
        names=(*explanation.sources, "fused"),
        last_RS=every_RLL[:, -1, begin:],
        older_R=every_RLL[:, -1, :begin].sum(1),
        maps_RSS=every_RLL[:, begin:, begin:],
        floor=min(1.0, STANDS_OUT / length),
    )


def draw(explanation: Explanation, items: int, pictures: Pictures) -> Sheet:
    """Return the sheet; `pictures` gives an item's thumbnail, or None for a placeholder."""
    shown = newest(explanation, items)
    columns = _columns(explanation, shown)
    rows = -(-len(explanation.recommended) // columns)
    side = min(MAP_MAX, (columns * CELL + LABELS) / len(shown.names) - MAP_GAP)
    heights = (
        MARGIN,
        0.75,  # the title
        0.3 + PICTURE + TITLE,
        STRIPS_HEADING + len(shown.names) * ROW + FUSED_GAP + 0.35,
        0.33 + side + 0.45,
        0.3 + rows * RECOMMENDED,
    )
    tops = [float(top) for top in np.cumsum(heights)]
    sheet = Sheet(2 * MARGIN + LABELS + columns * CELL, tops[-1] + MARGIN / 2)
    _title(sheet, explanation, shown, tops[0])
    _history(sheet, explanation, shown, tops[1], pictures)
    _strips(sheet, shown, tops[2])
    _maps(sheet, shown, tops[3], side)
    _recommendations(sheet, explanation, tops[4], columns, pictures)
    return sheet


def _columns(explanation: Explanation, shown: Shown) -> int:
    """Return how many columns the sheet has: what the widest part needs."""
    history = len(explanation.history) - shown.older + bool(shown.older)
    maps = math.ceil((len(shown.names) * (MAP_MIN + MAP_GAP) - LABELS) / CELL)
    return max(history, maps, min(len(explanation.recommended), RECOMMENDED_ACROSS))


def _title(sheet: Sheet, explanation: Explanation, shown: Shown, top: float) -> None:
    sheet.text(MARGIN, top, f"User {explanation.user}", Pen(size=15, weight="bold"))
    head = "mean of the heads" if explanation.head is None else f"head {explanation.head}"
    read, showing = len(explanation.history), shown.last_RS.shape[1]
    bought = f"{explanation.interactions} interactions"
    if read < explanation.interactions:
        bought += f", the model reads the newest {read}"
    if shown.older:
        bought += f", the newest {showing} are shown"
    block = f"block {explanation.block} of {explanation.blocks}, {head}"
    pen = Pen(size=9, color=MUTED)
    sheet.text(MARGIN, top + 0.36, f"{bought}.  Attention of {block}.", pen)


def _column(shown: Shown, index: int) -> float:
    """Return where the column of a shown item begins; the sum of the older ones comes first."""
    return MARGIN + LABELS + (index + bool(shown.older)) * CELL


def _history(
    sheet: Sheet, explanation: Explanation, shown: Shown, top: float, pictures: Pictures
) -> None:
    sheet.text(MARGIN, top, "History", Pen(size=10, weight="bold"))
    items = explanation.history[shown.older :]
    for index, item in enumerate(items):
        left = _column(shown, index)
        age = len(items) - 1 - index
        pen = Pen(size=7, color=MUTED, across="center")
        sheet.text(left + CELL / 2, top + 0.04, "newest" if age == 0 else f"–{age}", pen)
        _item(sheet, left, top + 0.22, item, pictures)
    if shown.older:
        pen = Pen(size=8, color=MUTED, across="center", down="center")
        left = _column(shown, -1) + CELL / 2
        sheet.text(left, top + 0.22 + PICTURE / 2, f"{shown.older}\nolder\ntogether", pen)


def _item(sheet: Sheet, left: float, top: float, item: ShownItem, pictures: Pictures) -> None:
    box = Box(left=left + 0.04, top=top, width=CELL - 0.08, height=PICTURE)
    pixels = pictures(item)
    if pixels is None:
        sheet.placeholder(box, item.title)
        return
    sheet.picture(box, pixels)
    title = wrap(item.title, CELL - 0.06, SMALL.size, 3)
    sheet.text(left + CELL / 2, top + PICTURE + 0.04, title, SMALL)


def _strips(sheet: Sheet, shown: Shown, top: float) -> None:
    """Draw, a row for each source, where the last position looks; below them the fused one."""
    _heading(sheet, top, "The newest item", "where it looks: each row sums to 100 %")
    brightest = max(float(shown.last_RS.max()), shown.floor)
    for row, (name, older, last_S) in enumerate(
        zip(shown.names, shown.older_R, shown.last_RS, strict=True)
    ):
        fused = name == "fused"
        at = top + STRIPS_HEADING + row * ROW + (FUSED_GAP if fused else 0.0)
        pen = Pen(size=9, weight="bold" if fused else "normal", down="center_baseline")
        sheet.text(MARGIN, at + ROW / 2, name, pen)
        if shown.older:
            sheet.cell(_cell(_column(shown, -1), at), None, percent(float(older)))
        for index, value in enumerate(last_S):
            share = float(value) / brightest
            sheet.cell(_cell(_column(shown, index), at), share, percent(float(value)))


def _cell(left: float, top: float) -> Box:
    return Box(left=left + 0.015, top=top + 0.015, width=CELL - 0.03, height=ROW - 0.03)


def _heading(sheet: Sheet, top: float, title: str, remark: str) -> None:
    sheet.text(MARGIN, top, title, Pen(size=10, weight="bold"))
    sheet.text(MARGIN + REMARK, top + 0.03, remark, Pen(size=8, color=MUTED))


def percent(share: float) -> str:
    """Return a share for people: 0.123 is 12 %."""
    return f"{share:.1%}" if share < 0.0995 else f"{share:.0%}"


def _maps(sheet: Sheet, shown: Shown, top: float, side: float) -> None:
    remark = "row: who looks, newest at the bottom · column: at what, newest at the right"
    _heading(sheet, top, "Every item shown", f"{remark} · each map has its own scale")
    for index, (name, map_SS) in enumerate(zip(shown.names, shown.maps_RSS, strict=True)):
        left = MARGIN + index * (side + MAP_GAP)
        hidden_SS = np.triu(np.ones(map_SS.shape, dtype=np.bool_), 1)
        values_SS = np.where(hidden_SS, np.nan, map_SS)  # what lies in the future stays white
        box = Box(left=left, top=top + 0.33, width=side, height=side)
        # The oldest rows see few items and so give each much: they may go off the scale.
        brightest = max(float(map_SS[len(map_SS) // 2 :].max()), shown.floor)
        sheet.heat(box, values_SS.astype(np.float32), brightest)
        weight = "bold" if name == "fused" else "normal"
        pen = Pen(size=8, weight=weight, across="center")
        sheet.text(left + side / 2, top + 0.37 + side, name, pen)


def _recommendations(
    sheet: Sheet, explanation: Explanation, top: float, columns: int, pictures: Pictures
) -> None:
    remark = "rank and score"
    if explanation.seen_excluded:
        remark += " · what the user has is left out"
    _heading(sheet, top, "Recommended", remark)
    for index, (item, score) in enumerate(explanation.recommended):
        row, column = divmod(index, columns)
        left = MARGIN + column * CELL
        at = top + 0.3 + row * RECOMMENDED
        pen = Pen(size=8, weight="bold", across="center")
        sheet.text(left + CELL / 2, at, f"{index + 1}.  {score:.2f}", pen)
        _item(sheet, left, at + 0.2, item, pictures)


def picture_reader(root: Path) -> Pictures:
    """Return what reads items' thumbnails below `root`."""

    def read(item: ShownItem) -> Pixels | None:
        return None if item.image is None else thumbnail(root / item.image, 2 * PICTURE_PX)

    return read
