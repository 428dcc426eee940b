"""The catalogue as a server needs it: ids to rows and back, and which rows are bound.

Knows nothing of models or requests. Row 0 is padding, so a row is never 0.
"""

# N items in the catalogue, C rows of the item tables (C > N: row 0 and the spare rows)

from collections.abc import Iterable

from mmsr.bundle.catalogue import Catalogue

CHUNK = 64  # the sequence graph reads a multiple of so many rows of the output table


class ItemIndex:
    """Which row is which item; immutable."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._ids = ["", *catalogue.item_ids]
        self._rows = catalogue.rows()
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


def bound_rows(last: int) -> int:
    """Return how many rows of a table are bound so that row `last` is among them."""
    return (last // CHUNK + 1) * CHUNK


def rows_outside(items: int) -> list[int]:
    """Return the bound rows of a table in catalogue order that are no item: never to come back."""
    return [0, *range(items + 1, bound_rows(items))]
