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


class RowFilters:
    """The filters of one catalogue in tables of `capacity` rows."""

    def __init__(self, catalogue: Catalogue, capacity: int) -> None:
        items = len(catalogue)
        self.categories = CategoryIndex(catalogue.categories, capacity)
        self.present_C = np.zeros(capacity, np.bool_)  # rows that hold an item
        self.present_C[1 : items + 1] = True
        self.available_C = np.zeros(capacity, np.bool_)  # of these, what is available
        self.available_C[1 : items + 1] = catalogue.available
        self._popularity_C = np.zeros(capacity, np.float64)
        self._popularity_C[1 : items + 1] = catalogue.popularity
        self._by_popularity_C = np.argsort(-self._popularity_C, kind="stable")
        self._written: set[int] = set()  # rows whose place in that order is not theirs any more

    def write_item(
        self, row: int, categories: Iterable[str], *, available: bool, popularity: float = 0.0
    ) -> None:
        """Let a row hold an item from now on."""
        self.categories.write(row, categories)
        self._popularity_C[row] = popularity
        self._written.add(row)
        self.present_C[row] = True
        self.available_C[row] = available

    def set_available(self, row: int, available: bool) -> None:
        """Switch the availability of an item."""
        self.available_C[row] = available and self.present_C[row]

    def remove_item(self, row: int) -> None:
        """Let a row never come back."""
        self.available_C[row] = self.present_C[row] = False

    def passing(self, request: RowRequest, rows: npt.NDArray[np.int64]) -> Mask:
        """Tell for each of some rows whether every filter but `allowed` lets it pass."""
        known = self.available_C if request.only_available else self.present_C
        passing = known[rows]
        if request.categories is not None:
            passing &= self.categories.mask(request.categories)[rows]
        if request.excluded:
            passing &= ~np.isin(rows, request.excluded)
        return passing

    def candidates(self, request: RowRequest) -> npt.NDArray[np.int64]:
        """Return the rows of `allowed` that may come back, each once, ascending."""
        assert request.allowed is not None
        rows = np.unique(np.asarray(request.allowed, np.int64))
        return rows[self.passing(request, rows)]

    def mask(self, request: RowRequest) -> Mask:
        """Return which rows may come back, [C]."""
        rows_C = np.arange(len(self.present_C))
        mask_C = self.passing(request, rows_C)
        if request.allowed is not None:
            allowed_C = np.zeros(len(mask_C), np.bool_)
            allowed_C[np.asarray(request.allowed, np.int64)] = True
            mask_C &= allowed_C
        return mask_C

    def most_popular(self, request: RowRequest) -> RowAnswer:
        """Return the k most popular rows that may come back, with their popularity as scores.

        Ties by row. Fewer come back only if fewer are eligible. The history is not read.
        """
        if request.allowed is not None:
            return self._ranked(self.candidates(request), request.k)
        kept: list[int] = []
        for begin in range(0, len(self._by_popularity_C), BLOCK):
            rows = self._by_popularity_C[begin : begin + BLOCK]
            found = rows[self.passing(request, rows)].tolist()
            kept += [row for row in found if row not in self._written] if self._written else found
            if len(kept) >= request.k:
                break
        written = np.array(sorted(self._written), np.int64)
        written = written[self.passing(request, written)]
        return self._ranked([*kept[: request.k], *written.tolist()], request.k)

    def _ranked(self, rows: Sequence[int] | npt.NDArray[np.int64], k: int) -> RowAnswer:
        rows_n = np.sort(np.asarray(rows, np.int64))
        popularity_n = self._popularity_C[rows_n]
        best = np.argsort(-popularity_n, kind="stable")[:k]
        return RowAnswer(rows_n[best].tolist(), popularity_n[best].tolist())
