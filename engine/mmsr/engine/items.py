"""The catalogue as a server needs it: ids to rows and back, and the popular items.

Knows nothing of models or requests. Row 0 is padding, so a row is never 0.
"""

# N items in the catalogue, C rows of the item tables (C > N: row 0 and the spare rows)

from collections.abc import Collection, Iterable
from itertools import islice

import numpy as np
import numpy.typing as npt

from mmsr.bundle.catalogue import Catalogue

NEVER = np.float32(-np.inf)


class ItemIndex:
    """Which row is which item; immutable."""

    version = 0  # of the live catalogue; 0: the bundle's own

    def __init__(self, catalogue: Catalogue) -> None:
        self._ids = ["", *catalogue.item_ids]
        self._rows = catalogue.rows()
        self._popular = popular_rows(catalogue)
        self._popularity = [0.0, *catalogue.popularity.astype(np.float64).tolist()]

    def __len__(self) -> int:
        return len(self._rows)

    def rows_of(self, item_ids: Iterable[str]) -> list[int]:
        """Return the rows of the ids that the catalogue knows, in the order given."""
        return list(filter(None, map(self._rows.get, item_ids)))

    def unknown_of(self, item_ids: Iterable[str]) -> list[str]:
        """Return the ids that the catalogue does not know."""
        return [item_id for item_id in item_ids if item_id not in self._rows]

    def ids_of(self, rows: Iterable[int]) -> list[str]:
        """Return the ids of rows that are items."""
        return list(map(self._ids.__getitem__, rows))

    def most_popular(self, k: int, excluded: Collection[int]) -> tuple[list[int], list[float]]:
        """Return the k most popular available rows that are not excluded, and their popularity.

        Fewer come back only if fewer are left.
        """
        barred = frozenset(excluded)
        rows = list(islice((row for row in self._popular if row not in barred), k))
        return rows, list(map(self._popularity.__getitem__, rows))


def popular_rows(catalogue: Catalogue) -> list[int]:
    """Return the rows of the available items, the most popular first, ties by row."""
    order = np.argsort(-catalogue.popularity, kind="stable")
    rows: list[int] = (order[catalogue.available[order]] + 1).tolist()
    return rows


def eligibility(eligible_N: npt.NDArray[np.bool_], capacity: int) -> npt.NDArray[np.float32]:
    """Return one line of the graph's bias [1, C]: 0 where an item is eligible, else -inf."""
    bias_1C = np.full((1, capacity), NEVER, np.float32)
    bias_1C[0, 1 : len(eligible_N) + 1][eligible_N] = 0.0
    return bias_1C
