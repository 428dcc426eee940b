"""Which rows may come back, as the catalogue stands now, and the most popular of them.

The thread that computes changes it, between batches; others may read meanwhile, as every change is
of single entries.
"""

# N items in the catalogue, C rows of the item tables (C > N: row 0 and the spare rows)

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from mmsr.bundle.catalogue import Catalogue
from mmsr.engine.categories import CategoryIndex
from mmsr.engine.rows import RowAnswer, RowRequest

BLOCK = 4096  # rows in the order of popularity that are looked through at a time

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


class RowFilters:
    """The filters of one catalogue in tables of `capacity` rows."""

    def __init__(self, catalogue: Catalogue, capacity: int) -> None:
        self.items = items = len(catalogue)
        self.categories = CategoryIndex(catalogue.categories, capacity)
        self.present_C = np.zeros(capacity, np.bool_)  # rows that hold an item
        self.present_C[1 : items + 1] = True
        self.available_C = np.zeros(capacity, np.bool_)  # of these, what is available
        self.available_C[1 : items + 1] = catalogue.available
        self._popularity_C = np.zeros(capacity, np.float64)
        self._popularity_C[1 : items + 1] = catalogue.popularity
        self._by_popularity_C = np.argsort(-self._popularity_C, kind="stable")
        # Rows whose place in that order is not theirs any more. Others take copies of it at once.
        self._written: set[int] = set()

    def write_item(
        self, row: int, categories: Iterable[str], *, available: bool, popularity: float = 0.0
    ) -> None:
        """Let a row hold an item from now on."""
        self.categories.write(row, categories)
        self._popularity_C[row] = popularity
        self._written.add(row)
        self.items += not self.present_C[row]
        self.present_C[row] = True
        self.available_C[row] = available

    def set_available(self, row: int, available: bool) -> None:
        """Switch the availability of an item."""
        self.available_C[row] = available and self.present_C[row]

    def remove_item(self, row: int) -> None:
        """Let a row never come back."""
        self.items -= bool(self.present_C[row])
        self.available_C[row] = self.present_C[row] = False

    def passing(self, request: RowRequest, rows: Rows) -> Mask:
        """Tell for each of some rows whether it is there and its categories are wanted."""
        known_C = self.available_C if request.only_available else self.present_C
        passing = known_C[rows]
        if request.categories is not None:
            passing &= self.categories.mask(request.categories)[rows]
        return passing

    def candidates(self, request: RowRequest) -> Rows:
        """Return the rows that pass every filter, excluded ones among them, ascending."""
        if request.allowed is not None:
            rows = np.unique(np.asarray(request.allowed, np.int64))
        elif request.categories is not None:
            rows = self.categories.rows(request.categories)
        else:
            rows = np.arange(1, len(self.present_C))
        return rows[self.passing(request, rows)]

    def most_popular(self, request: RowRequest) -> RowAnswer:
        """Return the k most popular rows that may come back, with their popularity as scores.

        Ties by row. Fewer come back only if fewer are eligible. The history is not read.
        """
        barred = set(request.excluded)
        if request.allowed is not None:
            rows = self.candidates(request).tolist()
            return self._ranked([row for row in rows if row not in barred], request.k)
        kept: list[int] = []
        written_rows = self._written.copy()  # another thread may be writing
        for begin in range(0, len(self._by_popularity_C), BLOCK):
            rows_b = self._by_popularity_C[begin : begin + BLOCK]
            found = rows_b[self.passing(request, rows_b)].tolist()
            kept += [r for r in found if r not in barred and r not in written_rows]
            if len(kept) >= request.k:
                break
        written = np.array(sorted(written_rows - barred), np.int64)
        written = written[self.passing(request, written)]
        return self._ranked([*kept[: request.k], *written.tolist()], request.k)

    def _ranked(self, rows: Sequence[int], k: int) -> RowAnswer:
        rows_n = np.sort(np.asarray(rows, np.int64))
        popularity_n = self._popularity_C[rows_n]
        best = np.argsort(-popularity_n, kind="stable")[:k]
        return RowAnswer(rows_n[best].tolist(), popularity_n[best].tolist())
