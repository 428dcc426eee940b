"""A file as blocks of rows: what every reader yields and what they share."""

# R rows of one block

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from io import BufferedReader
from itertools import compress, islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, cast
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from mmsr.training.dataset import DataError
from mmsr.training.prepare.values import Column, shown

T = TypeVar("T")
BLOCK_ROWS = 65_536
ZIP_BUFFER_BYTES = 1 << 20  # a zip's own way of reading lines is slow


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
    notes: list[tuple[int, str, str]] = field(default_factory=list)  # row, reason, value
    left_out: dict[str, int] = field(default_factory=dict)  # rows that nobody wanted, by reason

    def values(self, name: str) -> list[Any]:
        """Return a column as Python values."""
        column = self.columns[name]
        values: list[Any] = column if isinstance(column, list) else column.to_pylist()
        return values

    def only(self, mask_R: npt.NDArray[np.bool_], reason: str) -> "Block":
        """Return the chosen rows; the others are left out for `reason`. Columns must be lists."""
        left_out = int((~mask_R).sum())
        if not left_out:
            return self
        return replace(
            self,
            row_R=self.row_R[mask_R],
            columns={name: list(compress(self.columns[name], mask_R)) for name in self.columns},
            left_out=self.left_out | {reason: self.left_out.get(reason, 0) + left_out},
        )

    def shown(self, name: str, mask_R: npt.NDArray[np.bool_]) -> list[str | None]:
        """Return what stands in the chosen rows of a scalar column, for a report."""
        return shown(self.columns[name], np.flatnonzero(mask_R))


@dataclass(frozen=True)
class ZipMember:
    """A file in a zip archive."""

    archive: Path
    name: str

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"


class Reader(Protocol):
    """One file: its blocks and, after the last one, the columns that nobody reads."""

    list_separator: str | None  # parts a text where a list is expected
    ignored: set[str]

    def blocks(self) -> Iterator[Block]:
        """Yield every row once, in the order of the file."""
        ...


def check_columns(path: Path | ZipMember, found: list[str], columns: Columns) -> set[str]:
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


def open_binary(path: Path | ZipMember) -> BinaryIO:
    """Open a file for reading; `DataError` if that is not allowed."""
    try:
        if isinstance(path, Path):
            return path.open("rb")
        with ZipFile(path.archive) as archive:  # what is open in it outlives it
            return cast(BinaryIO, BufferedReader(archive.open(path.name), ZIP_BUFFER_BYTES))
    except (OSError, BadZipFile, RuntimeError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path} cannot be opened ({reason})") from None


def size_bytes(path: Path | ZipMember) -> int:
    """Return how many bytes `open_binary` leads to, at least 1."""
    if isinstance(path, Path):
        return max(1, path.stat().st_size)
    with ZipFile(path.archive) as archive:
        return max(1, archive.getinfo(path.name).file_size)


def batches(values: Iterable[T]) -> Iterator[tuple[int, list[T]]]:
    """Yield lists of up to `BLOCK_ROWS` values, each with the number (from 1) of its first."""
    source = iter(values)
    first = 1
    while batch := list(islice(source, BLOCK_ROWS)):
        yield first, batch
        first += len(batch)
