"""The ids of a bundle's items in their order. Knows nothing of models."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


class IdOrder:
    """By the bytes of UTF-8; sorted when it is first needed."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids = ids
        self._order_N: npt.NDArray[np.int64] | None = None

    def prepare(self) -> None:
        """Sort, once; may take a second for a million ids, most of it beside other threads."""
        if self._order_N is None:
            ids = pa.array(self._ids, pa.large_string())
            self._order_N = pc.sort_indices(ids).to_numpy().astype(np.int64)

    def after(self, item_id: str) -> Iterator[str]:
        """Yield the ids that come after one, which need not be among them; "" is before all."""
        assert self._order_N is not None
        ids = self._ids
        first = bisect_right(self._order_N, item_id, key=lambda place: ids[place])
        return (ids[place] for place in self._order_N[first:])
