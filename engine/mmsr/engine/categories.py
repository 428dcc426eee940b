"""Which rows have which categories: names to indices, filters to cached bitmaps over the rows.

One thread changes it, the one that computes; others may read meanwhile. What has been handed out
is changed in place, row by row, so that a change of one item never costs a pass over all.
"""

# N items in the catalogue, C rows of the item tables, T pairs of an item and a category

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from mmsr.engine.rows import CategoryFilter

CACHED = 64  # filters; a bitmap takes a byte a row

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


class CategoryIndex:
    """The categories of a catalogue; line i of `categories` belongs to row i + 1."""

    def __init__(self, categories: Sequence[Sequence[str]], capacity: int) -> None:
        names = list(dict.fromkeys(chain.from_iterable(categories)))
        self._indices = {name: index for index, name in enumerate(names)}
        self._capacity = capacity
        self._category_rows = _rows_by_category(categories, self._indices)
        # Rows that were written since: what they have now. They count, not what is above.
        self._written: dict[int, frozenset[int]] = {}
        self._masks: OrderedDict[CategoryFilter, Mask] = OrderedDict()

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
        found = self._masks.get(wanted)
        if found is None:
            found = self._build(wanted)
            if len(self._masks) >= CACHED:
                self._masks.popitem(last=False)
            self._masks[wanted] = found
        else:
            self._masks.move_to_end(wanted)
        return found

    def write(self, row: int, names: Iterable[str]) -> None:
        """Give a row these categories; new names get the next indices."""
        has = frozenset(self._indices.setdefault(n, len(self._indices)) for n in names)
        self._written[row] = has
        for wanted, mask in self._masks.items():
            mask[row] = _passes(has, wanted)

    def _known(self, names: Iterable[str]) -> frozenset[int]:
        return frozenset(self._indices[name] for name in names if name in self._indices)

    def _build(self, wanted: CategoryFilter) -> Mask:
        mask_C = np.full(self._capacity, wanted.include is None, np.bool_)
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
