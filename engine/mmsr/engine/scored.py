"""The output vectors that the graph scores, those that may come back in front.

    places   0 .. available-1      items that are available
             .. present-1          items that are not
             .. capacity-1         padding, spare rows, removed items

So a request reads the vectors of what it may get and of nothing else: the first places are bound,
and an item changes sides by trading places with the first or last of them. That writes two vectors
and four numbers, between batches, by the thread that computes. The vectors are the bundle's file,
mapped so that what is written stays in this process: memory is taken for what has moved alone.
"""

# C table rows, D width, n rows asked for, S states, B requests, E exclusions

import numpy as np
import numpy.typing as npt

from mmsr.bundle.tables import writable
from mmsr.engine.items import bound_rows
from mmsr.engine.opened import CODE_FILES, ITEM_OUTPUTS, OpenedBundle
from mmsr.engine.quantise import CODES, SCALES, quantise_rows
from mmsr.engine.runners.base import AnyArray, Runner, as_input

BLOCK = 8192  # vectors gathered at a time: 2 MiB of width 64, which stays in the cache

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class ScoredRows:
    """The output table of one bundle, in the order that serves."""

    def __init__(self, bundle: OpenedBundle, runner: Runner) -> None:
        self._runner = runner
        self._vectors_CD = writable(bundle.folder / ITEM_OUTPUTS)
        self._codes = {n: writable(bundle.folder / CODE_FILES[n]) for n in bundle.codes}
        capacity = len(self._vectors_CD)
        self._half_CD: AnyArray | None = None  # the same for a graph in half precision
        self._rows_bound = 0
        self._place_C = np.arange(capacity)  # row -> place
        self._row_C = np.arange(capacity)  # place -> row
        items = len(bundle.catalogue)
        present_C = np.zeros(capacity, np.bool_)
        present_C[1 : items + 1] = True
        available_C = present_C.copy()
        available_C[1 : items + 1] = bundle.catalogue.available
        self.present = self._to_front(present_C, capacity)
        self.available = self._to_front(available_C[self._row_C], self.present)
        [spec] = [tensor for tensor in runner.spec.inputs if tensor.name == "item_outputs"]
        converted_CD = as_input(spec, self._vectors_CD)
        self._half_CD = None if converted_CD is self._vectors_CD else converted_CD

    def rebind(self) -> None:
        """Hand codes and vectors to the runner."""
        for name, array in self._codes.items():
            self._runner.bind(name, array)
        self._rows_bound = 0
        self.bind(self.available)

    def bind(self, count: int) -> int:
        """Bind what holds the first `count` places and one beyond; return how many places."""
        bound = bound_rows(count)
        if bound != self._rows_bound:
            table_CD = self._vectors_CD if self._half_CD is None else self._half_CD
            self._runner.bind("item_outputs", table_CD[:bound])
            self._rows_bound = bound
        return bound

    def excluded(self, excluded_BE: Rows, count: int, bound: int) -> Rows:
        """Return the places that must not come back: those of the rows, and from `count` on."""
        places_BE = self._place_C[excluded_BE]
        beyond = np.arange(count, bound)
        tail_BF = np.broadcast_to(beyond, (len(places_BE), len(beyond)))
        return np.concatenate([np.where(places_BE < count, places_BE, count), tail_BF], axis=1)

    def rows(self, places: Rows) -> Rows:
        """Return the rows that have these places."""
        rows: Rows = self._row_C[places]
        return rows

    def scores(self, states_SD: Floats, rows_n: Rows) -> Floats:
        """Return the scores of some rows for each of some states, [S, n]."""
        scores_Sn = np.empty((len(states_SD), len(rows_n)), np.float32)
        vectors_bD = np.empty((min(BLOCK, len(rows_n)), states_SD.shape[1]), np.float32)
        for begin in range(0, len(rows_n), BLOCK):
            places_b = self._place_C[rows_n[begin : begin + BLOCK]]
            some_bD = vectors_bD[: len(places_b)]
            # "clip" alone writes without a copy in between; every place is inside.
            np.take(self._vectors_CD, places_b, axis=0, out=some_bD, mode="clip")
            for state_D, scores_n in zip(states_SD, scores_Sn, strict=True):
                # No BLAS: its threads would fight the runner's for the cores.
                np.einsum("bd,d->b", some_bD, state_D, out=scores_n[begin : begin + BLOCK])
        return scores_Sn

    def write(self, row: int, vector_D: Floats) -> None:
        """Store the vector of a row that is no item yet."""
        place = int(self._place_C[row])
        self._vectors_CD[place] = vector_D
        if self._half_CD is not None:
            self._half_CD[place] = vector_D
        if self._codes:
            codes_D1, scale_1 = quantise_rows(self._vectors_CD[place : place + 1])
            self._codes[CODES][:, place] = codes_D1[:, 0]
            self._codes[SCALES][place] = scale_1[0]
        self._tell(np.array([place]))

    def move(self, row: int, *, present: bool, available: bool) -> None:
        """Put a row among the available items, the unavailable ones or the rest."""
        goal = 0 if present and available else 1 if present else 2
        while (side := self._side(row)) != goal:
            if side == 2:
                self._trade(row, self.present)
                self.present += 1
            elif side == 1 and goal == 0:
                self._trade(row, self.available)
                self.available += 1
            elif side == 1:
                self.present -= 1
                self._trade(row, self.present)
            else:
                self.available -= 1
                self._trade(row, self.available)

    def _side(self, row: int) -> int:
        place = self._place_C[row]
        return 0 if place < self.available else 1 if place < self.present else 2

    def _trade(self, row: int, place: int) -> None:
        self._exchange(self._place_C[[row]], np.array([place]))

    def _to_front(self, wanted_C: Mask, within: int) -> int:
        """Bring the wanted ones of the first places in front of the others; return how many."""
        count = int(np.count_nonzero(wanted_C[:within]))
        holes = np.flatnonzero(~wanted_C[:count])
        movers = count + np.flatnonzero(wanted_C[count:within])
        self._exchange(holes, movers)
        return count

    def _exchange(self, first: Rows, second: Rows) -> None:
        """Let the rows at these places trade places."""
        order, back = np.concatenate([first, second]), np.concatenate([second, first])
        self._vectors_CD[order] = self._vectors_CD[back]
        for name, array in self._codes.items():
            if name == CODES:
                array[:, order] = array[:, back]
            else:
                array[order] = array[back]
        self._row_C[order] = self._row_C[back]
        self._place_C[self._row_C[order]] = order
        if self._half_CD is not None:
            self._half_CD[order] = self._half_CD[back]
        self._tell(order)

    def _tell(self, places_n: Rows) -> None:
        """Hand changed places to the runner, which may hold the tables in another memory."""
        if not self._rows_bound:
            return
        for name, array in self._codes.items():
            axis = array.ndim - 1
            changed = np.take(array, places_n, axis)
            self._runner.write_rows(name, places_n.tolist(), changed, axis=axis)
        table_CD = self._vectors_CD if self._half_CD is None else self._half_CD
        # Also beyond what is bound now: it is bound again without being handed over.
        self._runner.write_rows("item_outputs", places_n.tolist(), table_CD[places_n])


def best(scores_n: Floats, k: int) -> Rows:
    """Return the places of the k highest scores, best first."""
    some = np.arange(len(scores_n))
    if len(scores_n) > k:
        some = np.argpartition(scores_n, -k)[-k:]
    found: Rows = some[np.argsort(-scores_n[some], kind="stable")]
    return found
