"""Reads Parquet files."""

# R rows of one batch

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mmsr.bundle.errors import one_line
from mmsr.training.dataset import DataError
from mmsr.training.prepare.blocks import (
    BLOCK_BYTES,
    BLOCK_ROWS,
    MAX_LINE_BYTES,
    Block,
    Columns,
    check_columns,
)
from mmsr.training.prepare.parquet_sizes import pieces, row_bytes, text_leaves, value_type
from mmsr.training.prepare.values import is_categories_type, is_scalar_type, is_time_type

# Text of all rows: what is more than both is no shop's, but a few bytes that stand for a lot.
MOST_TEXT_BYTES, MOST_TEXT_RATIO = 1 << 30, 1000
LIST_VALUES = 100  # in a row, on the average of a row group
MOST_VALUES = 16_000_000  # in a row group, whatever its rows
SHOWN_REASON = 200  # characters of what Arrow says


class ParquetReader:
    """A Parquet file."""

    list_separator: str | None = None

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self.columns = columns
        self.ignored: set[str] = set()
        self._text_bytes = 0

    def blocks(self) -> Iterator[Block]:
        """Yield the file's rows."""
        try:
            metadata = pq.read_metadata(self.path)
            leaves = text_leaves(metadata)
            with pq.ParquetFile(self.path, metadata=metadata, read_dictionary=leaves) as file:
                yield from self._blocks(file)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            reason = one_line(error)[:SHOWN_REASON]
            raise DataError(
                f"{self.path} is not a readable Parquet file ({reason}); write it again"
            ) from None

    def _blocks(self, file: Any) -> Iterator[Block]:
        schema = file.schema_arrow
        self.ignored = check_columns(self.path, schema.names, self.columns)
        present = [name for name in self.columns.known if name in schema.names]
        for name in present:
            _check_type(self.path, name, schema.field(name).type)
        self._check_lists(file.metadata)
        first, self._text_bytes = 1, 0
        for batch in file.iter_batches(BLOCK_ROWS, columns=present):
            batch.validate(full=True)  # Parquet's own reader lets texts through that are not UTF-8
            for begin, end in pieces(self._sizes(batch, first), BLOCK_BYTES):
                yield self._block(batch.slice(begin, end - begin), first + begin, file.metadata)
            first += batch.num_rows

    def _check_lists(self, metadata: Any) -> None:
        """Raise `DataError` for lists that no catalogue has, and no memory could hold."""
        for n in range(metadata.num_row_groups):
            group = metadata.row_group(n)
            for i in range(group.num_columns):
                column = group.column(i)
                if column.num_values > MOST_VALUES + LIST_VALUES * group.num_rows:
                    raise DataError(
                        f"{self.path}: column {column.path_in_schema} has {column.num_values} "
                        f"values in {group.num_rows} rows; expected at most {LIST_VALUES} a row"
                    )

    def _sizes(self, batch: Any, first: int) -> npt.NDArray[np.int64]:
        bytes_R = row_bytes(batch)
        if len(bytes_R) and bytes_R.max() > MAX_LINE_BYTES:
            row = int(bytes_R.argmax())
            raise DataError(
                f"{self.path}, row {first + row}: {bytes_R[row]} bytes of text; expected at most "
                f"{MAX_LINE_BYTES} in a row"
            )
        self._text_bytes += int(bytes_R.sum())
        most = max(MOST_TEXT_BYTES, MOST_TEXT_RATIO * self.path.stat().st_size)
        if self._text_bytes > most:
            raise DataError(f"{self.path}: its rows hold more than {most} bytes of text in all")
        return bytes_R

    def _block(self, batch: Any, first: int, metadata: Any) -> Block:
        rows = batch.num_rows
        absent = [None] * rows
        present = set(batch.schema.names)
        return Block(
            row_R=np.arange(first, first + rows),
            columns={
                name: _decoded(batch.column(name)) if name in present else absent
                for name in self.columns.known
            },
            malformed=[],
            done=(first + rows - 1) / max(1, metadata.num_rows),
        )


def _decoded(column: Any) -> Any:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _check_type(path: Path, name: str, kind: Any) -> None:
    if name == "timestamp":
        accepted, wanted = is_time_type(kind), "numbers, dates or ISO 8601 texts"
    elif name == "categories":
        accepted, wanted = is_categories_type(kind), "lists of texts, or texts"
    else:
        accepted, wanted = is_scalar_type(kind), "texts or whole numbers"
    if not accepted:
        raise DataError(f"{path}: column {name} has type {value_type(kind)}; expected {wanted}")
