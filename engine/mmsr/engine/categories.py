"""Which rows have which categories: names to indices, filters to cached bitmaps over the rows.

Threads may share it. What has been handed out is changed in place, row by row, so that a change of
one item never costs a pass over all.
"""

# N items in the catalogue, C rows of the item tables, T pairs of an item and a category

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from threading import Lock

import numpy as np
import numpy.typing as npt

from mmsr.engine.rows import CategoryFilter

CACHED = 64  # filters; a bitmap takes a byte a row
MOST_KEPT = 1 / 16  # of the rows: longer lists are made again, each would take as much memory

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


@dataclass
class Passing:
    """What one filter lets pass."""

    mask_C: Mask
    count: int  # rows
    rows: Rows | None = None  # the same in ascending order; None: not asked for since a change


class CategoryIndex:
    """The categories of a catalogue; line i of `categories` belongs to row i + 1."""

    def __init__(self, categories: Sequence[Sequence[str]], capacity: int) -> None:
        names = list(dict.fromkeys(chain.from_iterable(categories)))
        self._indices = {name: index for index, name in enumerate(names)}
        self._items, self._capacity = len(categories), capacity
        self._category_rows = _rows_by_category(categories, self._indices)
        # Rows that were written since: what they have now. They count, not what is above.
        self._written: dict[int, frozenset[int]] = {}
        self._lock = Lock()  # of what follows
        self._passing: OrderedDict[CategoryFilter, Passing] = OrderedDict()

    def __len__(self) -> int:
        return len(self._indices)

    def unknown_of(self, names: Iterable[str]) -> list[str]:
        """Return the names that no item has ever had here."""
        return [name for name in names if name not in self._indices]

    def filter_of(self, include: Sequence[str], exclude: Sequence[str]) -> CategoryFilter | None:
        """Return the filter of these names; None where neither says anything.

        Unknown names are passed over, but of an `include` without any known one nothing is left.
        """
        included = self._known(include) if include else None
        excluded = self._known(exclude)
        if included is None and not excluded:
            return None
        return CategoryFilter(included, excluded)

    def mask(self, wanted: CategoryFilter) -> Mask:
        """Return which rows pass, [C]; not to be written by the caller.

        Later changes of the catalogue show in it until it leaves the cache.
        """
        return self._find(wanted).mask_C

    def count(self, wanted: CategoryFilter) -> int:
        """Return how many rows pass."""
        return self._find(wanted).count

    def rows(self, wanted: CategoryFilter) -> Rows:
        """Return the rows that pass, ascending; not to be written by the caller."""
        found = self._find(wanted)
        rows = found.rows
        if rows is None:
            rows = np.flatnonzero(found.mask_C)
            if len(rows) <= self._capacity * MOST_KEPT:
                found.rows = rows
        return rows

    def _find(self, wanted: CategoryFilter) -> Passing:
        with self._lock:
            found = self._passing.get(wanted)
            if found is None:
                mask_C = self._build(wanted)
                found = Passing(mask_C, int(np.count_nonzero(mask_C)))
                if len(self._passing) >= CACHED:
                    self._passing.popitem(last=False)
                self._passing[wanted] = found
            else:
                self._passing.move_to_end(wanted)
            return found

    def write(self, row: int, names: Iterable[str]) -> None:
        """Give a row these categories; new names get the next indices."""
        has = frozenset(self._indices.setdefault(n, len(self._indices)) for n in names)
        with self._lock:
            self._written[row] = has
            for wanted, found in self._passing.items():
                passes = _passes(has, wanted)
                if passes != bool(found.mask_C[row]):
                    found.mask_C[row] = passes
                    found.count += 1 if passes else -1
                    found.rows = None

    def _known(self, names: Iterable[str]) -> frozenset[int]:
        return frozenset(self._indices[name] for name in names if name in self._indices)

    def _build(self, wanted: CategoryFilter) -> Mask:
        mask_C = np.full(self._capacity, wanted.include is None, np.bool_)
        mask_C[self._items + 1 :] = False
        mask_C[0] = False
        for index in wanted.include or ():
            mask_C[self._rows_of(index)] = True
        for index in wanted.exclude:
            mask_C[self._rows_of(index)] = False
        for row, has in self._written.items():
            mask_C[row] = _passes(has, wanted)
        return mask_C

    def _rows_of(self, index: int) -> Rows:
        known = index < len(self._category_rows)
        return self._category_rows[index] if known else np.empty(0, np.int64)


def _passes(has: frozenset[int], wanted: CategoryFilter) -> bool:
    included = wanted.include is None or not has.isdisjoint(wanted.include)
    return included and has.isdisjoint(wanted.exclude)


def _rows_by_category(categories: Sequence[Sequence[str]], indices: dict[str, int]) -> list[Rows]:
    """Return for each category the rows that have it."""
    if not indices:
        return []
    counts_N = np.fromiter(map(len, categories), np.int64, len(categories))
    rows_T = np.repeat(np.arange(1, len(categories) + 1), counts_N)
    category_T = np.fromiter(
        map(indices.__getitem__, chain.from_iterable(categories)), np.int64, len(rows_T)
    )
    order_T = np.argsort(category_T, kind="stable")
    ends = np.cumsum(np.bincount(category_T, minlength=len(indices)))
    return np.split(rows_T[order_T], ends[:-1])
