"""A runner with another one beside it, for the batches that the first has no room for."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.runners.base import AnyArray, Runner
from mmsr.engine.runners.buckets import TooLargeError


class WithFallback:
    """Runs what is too large for `first` by the runner that `open_second` gives, once needed."""

    def __init__(self, first: Runner, open_second: Callable[[], Runner]) -> None:
        self._first = first
        self._open_second = open_second
        self._second: Runner | None = None
        self._bound: dict[str, AnyArray] = {}

    @property
    def name(self) -> str:
        """What computes nearly everything."""
        return self._first.name

    @property
    def spec(self) -> GraphSpec:
        """The inputs and outputs of the graph."""
        return self._first.spec

    def bind(self, name: str, array: AnyArray) -> None:
        """Bind a table to both; the second reads it in place, so it costs no memory there."""
        self._first.bind(name, array)
        self._bound[name] = array
        if self._second is not None:
            self._second.bind(name, array)

    def write_rows(
        self, name: str, rows: Sequence[int], values: AnyArray, *, axis: int = 0
    ) -> None:
        """Overwrite rows for both; the second needs it only where their owner has not done so."""
        self._first.write_rows(name, rows, values, axis=axis)
        at, bound = np.asarray(rows, np.int64), self._bound[name]
        inside = at < bound.shape[axis]
        known, new = np.take(bound, at[inside], axis), np.compress(inside, values, axis)
        if self._second is not None or not np.array_equal(known, new):
            self._beside().write_rows(name, rows, values, axis=axis)

    def run(self, batch: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Compute by whichever has room for the batch."""
        try:
            return self._first.run(batch)
        except TooLargeError:
            return self._beside().run(batch)

    def close(self) -> None:
        """Free both."""
        self._first.close()
        if self._second is not None:
            self._second.close()
            self._second = None
        self._bound.clear()

    def _beside(self) -> Runner:
        if self._second is None:
            self._second = self._open_second()
            for name, array in self._bound.items():
                self._second.bind(name, array)
        return self._second
