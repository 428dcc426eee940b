"""A file as blocks of rows: what every reader yields and what they share."""

# R rows of one block

import lzma
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from io import BufferedReader
from itertools import compress
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, cast
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from mmsr.bundle.errors import one_line, printable
from mmsr.training.dataset import DataError
from mmsr.training.prepare.values import Column, shown

T = TypeVar("T")
BLOCK_ROWS = 65_536
BLOCK_BYTES = 32 << 20  # of a block's text, plus one line: rows alone would bound no memory
MAX_LINE_BYTES = 16 << 20  # a record is some kilobytes; a file without line ends is one line
SHOWN_COLUMNS, SHOWN_NAME = 20, 40  # of a header that does not fit
# What zipfile raises at a damaged archive: of the structure, of what a member is packed with.
BAD_ZIP = (BadZipFile, EOFError, struct.error, zlib.error, lzma.LZMAError, ValueError, RuntimeError)
MOST_IGNORED, IGNORED_NAME = 1000, 200  # columns that a report lists, characters of each
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
            f"{path}: {wrong}; found {_named(found)}; "
            f"expected {', '.join(columns.required)}{optional}"
        )
    return set(found) - set(columns.known)


def note_ignored(ignored: set[str], names: Iterable[object]) -> None:
    """Add the names of columns that nobody reads, as a report can list them: not without end."""
    for name in names:
        if len(ignored) >= MOST_IGNORED:
            return
        ignored.add(printable(str(name)[:IGNORED_NAME]))


def _named(found: list[str]) -> str:
    """Return the names of a header, which may be anything, as one short line."""
    clipped = (f"{name[:SHOWN_NAME]}…" if len(name) > SHOWN_NAME else name for name in found)
    names = list(clipped)[:SHOWN_COLUMNS]
    if len(found) > SHOWN_COLUMNS:
        names.append(f"and {len(found) - SHOWN_COLUMNS} more")
    return printable(", ".join(names)) if found else "no columns"


def open_binary(path: Path | ZipMember) -> BinaryIO:
    """Open a file for reading; `DataError` if that is not allowed."""
    try:
        if isinstance(path, Path):
            return path.open("rb")
        with ZipFile(path.archive) as archive:  # what is open in it outlives it
            return cast(BinaryIO, BufferedReader(archive.open(path.name), ZIP_BUFFER_BYTES))
    except (OSError, *BAD_ZIP) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise DataError(f"{path} cannot be opened ({reason})") from None


def size_bytes(path: Path | ZipMember) -> int:
    """Return how many bytes `open_binary` leads to, at least 1."""
    if isinstance(path, Path):
        return max(1, path.stat().st_size)
    with ZipFile(path.archive) as archive:
        return max(1, archive.getinfo(path.name).file_size)


def lines_of(path: Path | ZipMember, file: BinaryIO) -> Iterator[bytes]:
    """Yield a file's lines as they stand there.

    `DataError` for a line that is too long to be one, or if the archive around it is damaged.
    """
    while True:
        try:
            line = file.readline(MAX_LINE_BYTES + 1)
        except BAD_ZIP as error:
            raise DataError(
                f"{path} is damaged ({one_line(error)}); download the archive again"
            ) from None
        if len(line) > MAX_LINE_BYTES:
            raise DataError(f"{path} has a line of more than {MAX_LINE_BYTES} bytes; see its form")
        if not line:
            return
        yield line


def batches(
    values: Iterable[T], size_of: Callable[[T], int] | None = None
) -> Iterator[tuple[int, list[T]]]:
    """Yield lists of up to `BLOCK_ROWS` values, each with the number (from 1) of its first.

    A list ends early with the value by which it has `BLOCK_BYTES`, as `size_of` counts.
    """
    first, size, batch = 1, 0, list[T]()
    for value in values:
        batch.append(value)
        if size_of is not None:
            size += size_of(value)
        if len(batch) >= BLOCK_ROWS or size >= BLOCK_BYTES:
            yield first, batch
            first, size, batch = first + len(batch), 0, []
    if batch:
        yield first, batch
