"""The catalogue as a server needs it: ids to rows and back, and the popular items.

Knows nothing of models or requests. Row 0 is padding, so a row is never 0.
"""

# N items in the catalogue, C rows of the item tables (C > N: row 0 and the spare rows)

from collections.abc import Collection, Iterable
from itertools import islice

import numpy as np

from mmsr.bundle.catalogue import Catalogue

CHUNK = 64  # the sequence graph reads a multiple of so many rows of the output table


class ItemIndex:
    """Which row is which item; immutable."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._ids = ["", *catalogue.item_ids]
        self._rows = catalogue.rows()
        self._popular = popular_rows(catalogue)
        self._popularity = [0.0, *catalogue.popularity.astype(np.float64).tolist()]
        self.version = 0  # changes of the live catalogue that are in it

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


def bound_rows(last: int) -> int:
    """Return how many rows of a table are bound so that row `last` is among them."""
    return (last // CHUNK + 1) * CHUNK


def rows_outside(items: int) -> list[int]:
    """Return the bound rows of a table in catalogue order that are no item: never to come back."""
    return [0, *range(items + 1, bound_rows(items))]
