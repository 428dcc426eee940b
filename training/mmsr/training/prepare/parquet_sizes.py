"""How much text the rows of an Arrow batch hold, counted before any of it is expanded.

In Parquet a text that a million rows share stands there once: a small file can hold more than any
memory. So texts are read as codes into a dictionary, and the rows cut by what they will take.
"""

# R rows of one batch, V values

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

ELEMENT_BYTES = 64  # that a value in a list takes as a Python object


def text_leaves(metadata: Any) -> list[str]:
    """Return the paths of a Parquet file's columns of bytes, which can be read as dictionaries."""
    columns = (metadata.schema.column(i) for i in range(metadata.num_columns))
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def value_type(kind: Any) -> Any:
    """Return the type without the dictionaries that `text_leaves` brings in."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def row_bytes(batch: Any) -> npt.NDArray[np.int64]:
    """Return how many bytes of text each row of a batch holds, [R]."""
    total_R = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        total_R += _bytes(column)
    return total_R


def pieces(bytes_R: npt.NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Yield first and last + 1 of rows in a line that hold `most` bytes, or one row more."""
    ends_R = np.cumsum(bytes_R)
    first, before = 0, 0
    while first < len(bytes_R):
        last = min(int(np.searchsorted(ends_R, before + most)) + 1, len(bytes_R))
        yield first, last
        first, before = last, int(ends_R[last - 1])


def _bytes(column: Any) -> npt.NDArray[np.int64]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        sizes = pa.array(_bytes(column.dictionary))
        return _filled(sizes.take(column.indices))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        ends_V = np.cumsum(np.append(0, _bytes(column.flatten()) + ELEMENT_BYTES))
        ends_R = np.cumsum(_filled(pc.list_value_length(column)))
        bytes_R: npt.NDArray[np.int64] = np.diff(ends_V[np.append(0, ends_R)])
        return bytes_R
    if pa.types.is_string_view(kind):
        column = column.cast(pa.large_string())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _filled(pc.binary_length(column))
    return np.zeros(len(column), np.int64)


def _filled(numbers: Any) -> npt.NDArray[np.int64]:
    filled: npt.NDArray[np.int64] = np.asarray(pc.fill_null(numbers, 0), dtype=np.int64)
    return filled
