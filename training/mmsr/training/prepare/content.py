"""A hash of Arrow and numpy values: the same for the same content, however it is cut in blocks."""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


class ContentHash:
    """Takes values under names; each name is one stream, in the order in which it comes."""

    def __init__(self) -> None:
        self._streams: dict[str, Any] = {}

    def add_table(self, table: Any) -> None:
        """Add a table of texts and lists of texts, each column under its name."""
        for name in table.schema.names:
            for chunk in table[name].chunks:
                self._add_column(name, chunk)

    def add_array(self, name: str, array: npt.NDArray[Any]) -> None:
        """Add a contiguous numpy array."""
        self._add(f"{name} {array.dtype.str}", array)

    def hexdigest(self) -> str:
        """Return one hash over all streams, in hex."""
        parts = [f"{name} {stream.hexdigest()}" for name, stream in sorted(self._streams.items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _add_column(self, name: str, column: Any) -> None:
        if pa.types.is_list(column.type):
            self._add(f"{name} counts", _lengths(pc.list_value_length(column)))
            self._add_column(f"{name} values", column.flatten())
            return
        self._add(f"{name} bytes", _lengths(pc.binary_length(column)))
        self._add(f"{name} text", _text_bytes(column))

    def _add(self, name: str, values: Any) -> None:
        self._streams.setdefault(name, hashlib.sha256()).update(values)


def _lengths(lengths: Any) -> npt.NDArray[np.int32]:
    return np.ascontiguousarray(pc.fill_null(lengths, -1).to_numpy(), dtype=np.int32)


def _text_bytes(column: Any) -> memoryview:
    column = column.drop_null().cast(pa.string())
    _, offsets, data = column.buffers()
    if data is None:
        return memoryview(b"")
    width = np.dtype(np.int32).itemsize
    start, end = np.frombuffer(offsets, dtype=np.int32, offset=column.offset * width)[
        [0, len(column)]
    ]
    return memoryview(data)[start:end]
