"""What is asked of a model and what it answers, and what an item is, in rows of the tables.

Values alone: `filters` says which rows they allow, `model` computes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class CategoryFilter(NamedTuple):
    """Categories by the indices of `categories.CategoryIndex`; `filter_of` makes it from names."""

    include: frozenset[int] | None = None  # any of these; None: whatever it has, or nothing at all
    exclude: frozenset[int] = frozenset()  # and none of these


class RowRequest(NamedTuple):
    """What to compute for one user. A row comes back if every filter lets it pass."""

    history: list[int]  # rows, oldest first: 1 to max_length of them
    excluded: list[int]  # rows that must not come back
    k: int  # 1 to the number of items
    allowed: Sequence[int] | None = None  # the only rows that may; None: all, (): none
    categories: CategoryFilter | None = None
    only_available: bool = True  # False: also items that the catalogue calls unavailable


class RowAnswer(NamedTuple):
    """Best first; as many as are eligible, at most k."""

    rows: list[int]
    scores: list[float]


class ItemRow(NamedTuple):
    """One item as it is written into a spare row while the model serves."""

    inputs_W: npt.NDArray[np.float32]  # as item.onnx gives them
    outputs_D: npt.NDArray[np.float32]
    categories: Sequence[str]
    available: bool = True
    popularity: float = 0.0  # for answers to those without a history
