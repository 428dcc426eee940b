"""What makes an item: a look, a subject and a department, independent of one another.

Each of the three is a class; classes of a factor share attributes (two looks of one colour), so
that a taste for an attribute carries over. Which words and which paint stand for them is not
known here.
"""

# N items

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

COLOURS, TEXTURES, SHAPES = 8, 6, 5
LOOKS = 24  # distinct in (colour, texture), since 24 is the least common multiple of 8 and 6
SUBJECTS, MATERIALS, MOODS = 20, 5, 4
TOPS, LEAVES_PER_TOP = 8, 5
LEAVES = TOPS * LEAVES_PER_TOP

POPULARITY_EXPONENT = 0.5  # of a Zipf law over the items
SECOND_LEAF = 0.25  # share of the items that stand in two leaves
NO_IMAGE, NO_TEXT, NO_CATEGORIES = 0.05, 0.03, 0.03  # shares of the items, as in real shops

# Streams of random numbers: adding one must not move the others.
ITEM_STREAM, TEXT_STREAM, IMAGE_STREAM, WORLD_STREAM, LENGTH_STREAM, USER_STREAM = range(6)


def look_attributes(look: int) -> tuple[int, int, int]:
    """Return colour, texture and shape of a look."""
    return look % COLOURS, look % TEXTURES, look % SHAPES


def subject_attributes(subject: int) -> tuple[int, int]:
    """Return material and mood that come with a subject."""
    return subject % MATERIALS, subject % MOODS


@dataclass(frozen=True, kw_only=True)
class Factors:
    """The items; element i is item i."""

    look_N: Ints
    subject_N: Ints
    leaf_N: Ints
    second_leaf_N: Ints  # of the same top or another; -1: none
    popularity_N: npt.NDArray[np.float64]  # sums to 1
    has_image_N: Mask
    has_text_N: Mask
    has_categories_N: Mask

    def __len__(self) -> int:
        return len(self.look_N)


def draw_factors(items: int, seed: int) -> Factors:
    """Draw the items of a shop."""
    rng = np.random.default_rng([seed, ITEM_STREAM])

    def classes(count: int) -> Ints:
        return rng.integers(count, size=items, dtype=np.int32)

    rank_N = rng.permutation(items) + 1.0
    popularity_N = rank_N**-POPULARITY_EXPONENT
    second_leaf_N = np.where(rng.random(items) < SECOND_LEAF, classes(LEAVES), -1)
    return Factors(
        look_N=classes(LOOKS),
        subject_N=classes(SUBJECTS),
        leaf_N=classes(LEAVES),
        second_leaf_N=second_leaf_N.astype(np.int32),
        popularity_N=popularity_N / popularity_N.sum(),
        has_image_N=rng.random(items) >= NO_IMAGE,
        has_text_N=rng.random(items) >= NO_TEXT,
        has_categories_N=rng.random(items) >= NO_CATEGORIES,
    )
