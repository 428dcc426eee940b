"""Leaves out interactions with too low a rating."""

import math

import numpy as np

from mmsr.training.prepare.blocks import Block

RATING = "rating"


def at_least(block: Block, min_rating: float | None) -> Block:
    """Return the block's rows with a rating of `min_rating` or more; all if that is None."""
    if min_rating is None:
        return block
    ratings_R = np.array([_number(value) for value in block.values(RATING)], dtype=np.float64)
    rated_R = ~np.isnan(ratings_R)
    rated = block.only(rated_R, "rating is no number")
    return rated.only(ratings_R[rated_R] >= min_rating, f"rating below {min_rating:g}")


def _number(value: object) -> float:
    try:
        return float(str(value).strip())
    except ValueError:
        return math.nan
