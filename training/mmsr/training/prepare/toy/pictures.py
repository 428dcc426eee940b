"""Draws an item: a textured form on a pale ground. The look says which; each drawing differs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmsr.training.prepare.toy.factors import look_attributes

if TYPE_CHECKING:
    from PIL import Image

Plane = npt.NDArray[np.floating[Any]]  # [pixels, pixels]

OVERSAMPLING = 2  # drawn larger and scaled down, so that edges are smooth

# Main and second colour of each of the eight colours, RGB in 0..1.
PALETTE = np.array(
    [
        [(0.93, 0.42, 0.36), (0.99, 0.82, 0.76)],  # coral
        [(0.95, 0.66, 0.20), (1.00, 0.90, 0.62)],  # amber
        [(0.55, 0.66, 0.24), (0.88, 0.92, 0.66)],  # moss
        [(0.10, 0.55, 0.45), (0.70, 0.90, 0.82)],  # jade
        [(0.20, 0.58, 0.82), (0.78, 0.91, 0.98)],  # sky
        [(0.20, 0.26, 0.58), (0.72, 0.76, 0.94)],  # ink
        [(0.58, 0.34, 0.70), (0.90, 0.80, 0.96)],  # violet
        [(0.30, 0.28, 0.28), (0.86, 0.84, 0.80)],  # graphite
    ],
    dtype=np.float32,
)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Coordinates of the drawing, in a frame that is turned and scaled with the form."""

    x: Plane
    y: Plane


def draw(look: int, rng: np.random.Generator, size: int) -> "Image.Image":
    """Return a picture of `size` x `size` pixels."""
    from PIL import Image

    colour, texture, shape = look_attributes(look)
    ground, form = _grids(size * OVERSAMPLING, rng)
    main, second = np.clip(PALETTE[colour] + rng.normal(0, 0.025, (2, 3)), 0, 1)
    pattern = TEXTURES[texture](form, rng)[..., None]
    light = (1.04 - 0.10 * (ground.x + ground.y))[..., None]
    picture = _background(ground, rng)
    shadow = _inside(shape, Grid(x=form.x - 0.10, y=form.y - 0.12), softness=0.16)[..., None]
    picture = picture * (1 - 0.28 * shadow)
    mask = _inside(shape, form, softness=0.02)[..., None]
    picture = picture * (1 - mask) + (main + (second - main) * pattern) * light * mask
    pixels = np.clip(picture * 255, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BOX)


def _grids(side: int, rng: np.random.Generator) -> tuple[Grid, Grid]:
    """Return the frame of the picture and that of the form, both within about -1..1."""
    line = np.linspace(-1, 1, side, dtype=np.float32)
    x, y = np.meshgrid(line, line)
    angle, scale = rng.uniform(-0.35, 0.35), rng.uniform(0.62, 0.80)
    left, up = rng.uniform(-0.08, 0.08, 2)
    cos, sin = np.float32(np.cos(angle) / scale), np.float32(np.sin(angle) / scale)
    dx, dy = x - np.float32(left), y - np.float32(up)
    return Grid(x=x, y=y), Grid(x=cos * dx + sin * dy, y=cos * dy - sin * dx)


def _background(grid: Grid, rng: np.random.Generator) -> Plane:
    tone = np.array([0.96, 0.95, 0.93], dtype=np.float32) + rng.uniform(-0.03, 0.03, 3).astype(
        np.float32
    )
    fall_off = 1 - 0.07 * (grid.x**2 + grid.y**2) + 0.03 * (grid.y < 0.45)
    return np.asarray(fall_off[..., None] * tone, dtype=np.float32)


def _inside(shape: int, grid: Grid, softness: float) -> Plane:
    """Return 1 inside the form, 0 outside, and between over `softness`."""
    return _unit(SHAPES[shape](grid) / softness + 0.5)


# Forms: positive inside, zero at the edge.


def _disc(g: Grid) -> Plane:
    return 0.92 - np.hypot(g.x, g.y)


def _square(g: Grid) -> Plane:
    return 0.84 - (g.x**6 + g.y**6) ** np.float32(1 / 6)


def _hexagon(g: Grid) -> Plane:
    return 0.84 - np.maximum(np.abs(g.y), np.abs(g.x) * 0.866 + np.abs(g.y) * 0.5)


def _star(g: Grid) -> Plane:
    angle = np.arctan2(g.x, -g.y)
    edge: Plane = 0.72 + 0.26 * np.cos(5 * angle)
    return edge - np.hypot(g.x, g.y)


def _heart(g: Grid) -> Plane:
    x, y = np.abs(g.x) * 1.05, -g.y * 1.05 - 0.06
    return (1 - np.hypot(x, y - 0.72 * np.sqrt(x))) * 0.72


# Patterns: 0 is the main colour, 1 the second.


def _plain(g: Grid, rng: np.random.Generator) -> Plane:
    return _unit(0.12 + 0.10 * g.y)


def _stripes(g: Grid, rng: np.random.Generator) -> Plane:
    return _edge(np.sin(rng.uniform(7, 9) * g.x + rng.uniform(0, 6)))


def _dots(g: Grid, rng: np.random.Generator) -> Plane:
    pitch = np.float32(rng.uniform(0.38, 0.46))
    x, y = (g.x + rng.uniform(0, 1)) / pitch, (g.y + rng.uniform(0, 1)) / pitch
    return _edge((0.30 - np.hypot(x - np.round(x), y - np.round(y))) * 4)


def _checks(g: Grid, rng: np.random.Generator) -> Plane:
    rate = rng.uniform(6, 7.5)
    return _edge(np.sin(rate * g.x + rng.uniform(0, 6)) * np.sin(rate * g.y + rng.uniform(0, 6)))


def _waves(g: Grid, rng: np.random.Generator) -> Plane:
    bend = 0.9 * np.sin(rng.uniform(3.5, 4.5) * g.x + rng.uniform(0, 6))
    return _edge(np.sin(rng.uniform(8, 10) * g.y + bend))


def _rings(g: Grid, rng: np.random.Generator) -> Plane:
    return _edge(np.sin(rng.uniform(12, 14) * np.hypot(g.x, g.y) + rng.uniform(0, 6)))


def _edge(wave: Plane) -> Plane:
    return _unit(wave * 4 + 0.5)


def _unit(values: Plane) -> Plane:
    clipped: Plane = np.clip(values, 0, 1)
    return clipped


SHAPES = (_disc, _square, _hexagon, _star, _heart)
TEXTURES = (_plain, _stripes, _dots, _checks, _waves, _rings)
