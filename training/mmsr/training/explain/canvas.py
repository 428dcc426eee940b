"""A sheet of paper measured in inches from its upper left corner, drawn by matplotlib.

Texts are drawn as they are: a "$" is a dollar, never the begin of a formula.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from textwrap import TextWrapper
from unicodedata import east_asian_width

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.patches import FancyBboxPatch, Rectangle

from mmsr.bundle.files import atomic_path
from mmsr.training.explain.pictures import Pixels

INK, MUTED, FAINT = "#1b2230", "#667085", "#eef0f4"
HEAT = LinearSegmentedColormap.from_list("heat", ["#f5f7fb", "#a9c1ee", "#3f6fd1", "#0f2f7f"])
HALF_DARK = 0.5  # of the colour map; beyond it, text is white
DOTS_PER_INCH = 120
LETTER_WIDTH = 0.56  # of the font size, on average
# Looked for on this machine, in this order, for what the first one lacks.
FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Noto Sans Arabic", "Arial")


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle on the sheet, in inches."""

    left: float
    top: float
    width: float
    height: float

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Return left, right, bottom, top, as matplotlib wants it."""
        return self.left, self.left + self.width, self.top + self.height, self.top

    def fitted(self, pixels: Pixels) -> "Box":
        """Return the largest box of the picture's proportions in the middle of this one."""
        height_px, width_px = pixels.shape[:2]
        scale = min(self.width / width_px, self.height / height_px)
        width, height = width_px * scale, height_px * scale
        left, top = self.left + (self.width - width) / 2, self.top + (self.height - height) / 2
        return Box(left=left, top=top, width=width, height=height)


@dataclass(frozen=True, kw_only=True)
class Pen:
    """How a text looks: size in points, and which point of it stands where it is put."""

    size: float = 8
    color: str = INK
    weight: str = "normal"
    across: str = "left"
    down: str = "top"


class Sheet:
    """What is drawn on."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(height, 0)
        known = set(fontManager.get_font_names())
        self.fonts = [name for name in FONTS if name in known]

    def text(self, left: float, top: float, text: str, pen: Pen) -> None:
        """Write one or several lines."""
        self.axes.text(
            left,
            top,
            text,
            fontsize=pen.size,
            color=pen.color,
            fontweight=pen.weight,
            ha=pen.across,
            va=pen.down,
            family=self.fonts,
            linespacing=1.15,
            parse_math=False,
        )

    def picture(self, box: Box, pixels: Pixels) -> None:
        """Draw a picture into the box, its proportions kept."""
        extent = box.fitted(pixels).extent
        self.axes.imshow(pixels, extent=extent, aspect="auto", interpolation="antialiased")

    def placeholder(self, box: Box, text: str) -> None:
        """Draw a frame with a text where there is no picture."""
        frame = FancyBboxPatch(
            (box.left + 0.05, box.top + 0.05),
            box.width - 0.1,
            box.height - 0.1,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=FAINT,
            edgecolor="#cfd5df",
            linewidth=0.8,
        )
        self.axes.add_patch(frame)
        pen = Pen(size=7, color=MUTED, across="center", down="center")
        lines = wrap(text, box.width - 0.2, pen.size, 4)
        self.text(box.left + box.width / 2, box.top + box.height / 2, lines, pen)

    def cell(self, box: Box, share: float | None, text: str) -> None:
        """Draw one number: on the colour of `share`, from 0 to 1, or on none."""
        corner = (box.left, box.top)
        colour = "white" if share is None else HEAT(share)
        self.axes.add_patch(Rectangle(corner, box.width, box.height, facecolor=colour))
        ink = MUTED if share is None else "white" if share > HALF_DARK else INK
        pen = Pen(size=8, color=ink, across="center", down="center_baseline")
        self.text(box.left + box.width / 2, box.top + box.height / 2, text, pen)

    def heat(self, box: Box, values: npt.NDArray[np.float32], brightest: float) -> None:
        """Draw a heat map [rows, columns] into the box; `brightest` has the darkest colour."""
        self.axes.imshow(
            values,
            extent=box.extent,
            aspect="auto",
            interpolation="nearest",
            cmap=HEAT,
            vmin=0,
            vmax=brightest,
        )

    def save(self, path: Path) -> bool:
        """Write a PNG; return whether every character had a font."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("always", message="Glyph .* missing from font")
            with atomic_path(path) as temporary:
                self.figure.savefig(temporary, format="png", metadata={"Software": "mmsr"})
        return not caught


def wrap(text: str, width: float, size: float, lines: int) -> str:
    """Return the text in lines of about `width` inches at `size` points, cut with an ellipsis."""
    wide = sum(east_asian_width(letter) in "WF" for letter in text) / max(1, len(text))
    letters = max(4, int(width * 72 / (size * LETTER_WIDTH * (1 + 0.8 * wide))))
    wrapper = TextWrapper(width=letters, max_lines=lines, placeholder="…")
    return wrapper.fill(text)
