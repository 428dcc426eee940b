"""Reads Parquet files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmsr.training.dataset import DataError
from mmsr.training.prepare.blocks import BLOCK_ROWS, Block, Columns, check_columns
from mmsr.training.prepare.values import is_categories_type, is_scalar_type, is_time_type


class ParquetReader:
    """A Parquet file."""

    list_separator: str | None = None

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self.columns = columns
        self.ignored: set[str] = set()

    def blocks(self) -> Iterator[Block]:
        """Yield the file's rows."""
        try:
            with pq.ParquetFile(self.path) as file:
                yield from self._blocks(file)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"{self.path} is not a readable Parquet file ({reason}); write it again"
            ) from None

    def _blocks(self, file: Any) -> Iterator[Block]:
        schema = file.schema_arrow
        self.ignored = check_columns(self.path, schema.names, self.columns)
        present = [name for name in self.columns.known if name in schema.names]
        for name in present:
            _check_type(self.path, name, schema.field(name).type)
        first = 1
        total = max(1, file.metadata.num_rows)
        for batch in file.iter_batches(BLOCK_ROWS, columns=present):
            batch.validate(full=True)  # Parquet's own reader lets texts through that are not UTF-8
            rows = batch.num_rows
            absent = [None] * rows
            yield Block(
                row_R=np.arange(first, first + rows),
                columns={
                    name: batch.column(name) if name in present else absent
                    for name in self.columns.known
                },
                malformed=[],
                done=(first + rows - 1) / total,
            )
            first += rows


def _check_type(path: Path, name: str, kind: Any) -> None:
    if name == "timestamp":
        accepted, wanted = is_time_type(kind), "numbers, dates or ISO 8601 texts"
    elif name == "categories":
        accepted, wanted = is_categories_type(kind), "lists of texts, or texts"
    else:
        accepted, wanted = is_scalar_type(kind), "texts or whole numbers"
    if not accepted:
        raise DataError(f"{path}: column {name} has type {kind}; expected {wanted}")
