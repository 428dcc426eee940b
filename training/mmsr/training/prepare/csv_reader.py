"""Reads CSV files. A record with the wrong number of fields is malformed, not an error."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mmsr.training.dataset import DataError
from mmsr.training.prepare.blocks import (
    MAX_LINE_BYTES,
    Block,
    Columns,
    ZipMember,
    batches,
    check_columns,
    lines_of,
    open_binary,
    size_bytes,
)

LIST_SEPARATOR = "|"


class CsvReader:
    """A CSV file in UTF-8 with a header, commas and double quotes."""

    list_separator: str | None = LIST_SEPARATOR

    def __init__(self, path: Path | ZipMember, columns: Columns) -> None:
        self.path = path
        self.columns = columns
        self.ignored: set[str] = set()

    def blocks(self) -> Iterator[Block]:
        """Yield the file's records, blank lines left out."""
        with open_binary(self.path) as file:
            lines = _Lines(self.path, file)
            records = lines.whole(csv.reader(lines, strict=True))
            try:
                header = [name.strip() for name in next(records, [])]
                if not any(header):
                    raise DataError(f"{self.path} is empty; expected a header and rows")
                self.ignored = check_columns(self.path, header, self.columns)
                filled = (record for record in records if record)
                for first, batch in batches(filled, _size):
                    yield self._block(first, batch, header, lines.done)
            except csv.Error as error:
                raise DataError(
                    f"{self.path}, line {lines.count}: not well-formed CSV ({error}); "
                    "look for a stray quote"
                ) from None

    def _block(self, first: int, records: list[list[str]], header: list[str], done: float) -> Block:
        width = len(header)
        numbered = list(enumerate(records, start=first))
        rows = [(row, record) for row, record in numbered if len(record) == width]
        place = {name: header.index(name) for name in self.columns.known if name in header}
        return Block(
            row_R=np.array([row for row, _ in rows], dtype=np.int64),
            columns={
                name: [record[place[name]] for _, record in rows]
                if name in place
                else [None] * len(rows)
                for name in self.columns.known
            },
            malformed=[
                (row, f"{len(record)} fields, the header has {width}: {','.join(record)}")
                for row, record in numbered
                if len(record) != width
            ],
            done=done,
        )


def _size(record: list[str]) -> int:
    return sum(map(len, record))


class _Lines:
    """Decoded lines of a file; counts them and how much of the file they are."""

    def __init__(self, path: Path | ZipMember, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.size = size_bytes(path)
        self.read = 0
        self.count = 0
        self.record = 0  # bytes of the record that is being read

    @property
    def done(self) -> float:
        return self.read / self.size

    def whole(self, records: Iterator[list[str]]) -> Iterator[list[str]]:
        """Pass records on, each of which may be many lines long; see how long they get."""
        for record in records:
            self.record = 0
            yield record

    def __iter__(self) -> Iterator[str]:
        encoding = "utf-8-sig"  # the first line may begin with a byte order mark
        for line in lines_of(self.path, self.file):
            self.count += 1
            self.read += len(line)
            self.record += len(line)
            if self.record > MAX_LINE_BYTES:
                raise DataError(
                    f"{self.path}, line {self.count}: a record of more than {MAX_LINE_BYTES} "
                    "bytes; look for a stray quote"
                )
            try:
                yield line.decode(encoding)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self.path}, line {self.count}: not UTF-8 ({error.reason}); convert the file"
                ) from None
            encoding = "utf-8"
