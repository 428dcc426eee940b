"""A file as blocks of rows: what every reader yields and what they share."""

# R rows of one block

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from mmsr.training.dataset import DataError
from mmsr.training.prepare.values import Column, shown

T = TypeVar("T")
BLOCK_ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What a file must and may hold; anything else in it is ignored."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def known(self) -> tuple[str, ...]:
        """Return all columns that are read."""
        return self.required + self.optional


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some rows of a file. A column that the file does not have is a column of nulls."""

    row_R: npt.NDArray[np.int64]
    columns: dict[str, Column]
    malformed: list[tuple[int, str]]  # row, what is wrong and what stands there
    done: float  # fraction of the file that has been read

    def values(self, name: str) -> list[Any]:
        """Return a column as Python values."""
        column = self.columns[name]
        values: list[Any] = column if isinstance(column, list) else column.to_pylist()
        return values

    def shown(self, name: str, mask_R: npt.NDArray[np.bool_]) -> list[str | None]:
        """Return what stands in the chosen rows of a scalar column, for a report."""
        return shown(self.columns[name], np.flatnonzero(mask_R))


class Reader(Protocol):
    """One file: its blocks and, after the last one, the columns that nobody reads."""

    list_separator: str | None  # parts a text where a list is expected
    ignored: set[str]

    def blocks(self) -> Iterator[Block]:
        """Yield every row once, in the order of the file."""
        ...


def check_columns(path: Path, found: list[str], columns: Columns) -> set[str]:
    """Return the columns to ignore; `DataError` if one is missing or stands twice."""
    missing = [name for name in columns.required if name not in found]
    twice = [name for name in columns.known if found.count(name) > 1]
    if missing or twice:
        wrong = f"no column {', '.join(missing)}" if missing else f"{', '.join(twice)} stands twice"
        optional = f" and optionally {', '.join(columns.optional)}" if columns.optional else ""
        raise DataError(
            f"{path}: {wrong}; found {', '.join(found) or 'no columns'}; "
            f"expected {', '.join(columns.required)}{optional}"
        )
    return set(found) - set(columns.known)


def open_binary(path: Path) -> BinaryIO:
    """Open a file for reading; `DataError` if that is not allowed."""
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror})") from None


def batches(values: Iterable[T]) -> Iterator[tuple[int, list[T]]]:
    """Yield lists of up to `BLOCK_ROWS` values, each with the number (from 1) of its first."""
    source = iter(values)
    first = 1
    while batch := list(islice(source, BLOCK_ROWS)):
        yield first, batch
        first += len(batch)
