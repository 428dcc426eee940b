"""Finds and reads the files of MovieLens, in a folder or in the zip archive as published."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import numpy as np

from mmsr.bundle.errors import one_line
from mmsr.training.dataset import DataError
from mmsr.training.prepare.blocks import (
    BAD_ZIP,
    Block,
    Columns,
    Reader,
    ZipMember,
    batches,
    lines_of,
    open_binary,
    size_bytes,
)
from mmsr.training.prepare.csv_reader import CsvReader

SEPARATOR = "::"
RATINGS = Columns(required=("userId", "movieId", "rating", "timestamp"))
MOVIES = Columns(required=("movieId", "title", "genres"))
FORMS = (".csv", ".dat")
EXPECTED = "expected ratings.dat and movies.dat (1M, 10M), or ratings.csv and movies.csv (20M on)"


@dataclass(frozen=True, kw_only=True)
class MovieLensFiles:
    """The two files that are read."""

    ratings: Path | ZipMember
    movies: Path | ZipMember


def find_movielens(src: Path) -> MovieLensFiles:
    """Return the files of an unpacked folder or of a zip; `DataError` if they are not there."""
    names = _folder_names(src) if src.is_dir() else _zip_names(src)
    for form in FORMS:
        ratings, movies = names.get(f"ratings{form}"), names.get(f"movies{form}")
        if ratings and movies:
            return MovieLensFiles(ratings=ratings, movies=movies)
    found = ", ".join(sorted(names)[:8]) or "nothing"
    raise DataError(f"{src} holds {found}; {EXPECTED}")


def open_raw(path: Path | ZipMember, columns: Columns) -> Reader:
    """Return the reader of one file, by its extension."""
    reader = CsvReader if path.name.endswith(".csv") else DatReader
    return reader(path, columns)


class DatReader:
    """Lines with '::' between their fields, no header; UTF-8 or, where a line is not, Latin-1.

    MovieLens 1M is Latin-1, 10M is UTF-8.
    """

    list_separator: str | None = None

    def __init__(self, path: Path | ZipMember, columns: Columns) -> None:
        self.path = path
        self.names = columns.required
        self.ignored: set[str] = set()

    def blocks(self) -> Iterator[Block]:
        """Yield the file's lines, blank ones left out."""
        read = 0
        size = size_bytes(self.path)
        with open_binary(self.path) as file:
            for first, lines in batches(lines_of(self.path, file), len):
                read += sum(map(len, lines))
                yield self._block(first, lines, read / size)

    def _block(self, first: int, lines: list[bytes], done: float) -> Block:
        width = len(self.names)
        numbered = enumerate((_decode(line) for line in lines), start=first)
        texts = [(row, text) for row, text in numbered if text]
        records = [(row, _fields(text, width)) for row, text in texts]
        good = [(row, fields) for row, fields in records if len(fields) == width]
        return Block(
            row_R=np.array([row for row, _ in good], dtype=np.int64),
            columns={n: [fields[i] for _, fields in good] for i, n in enumerate(self.names)},
            malformed=[
                (row, f"{len(fields)} fields, expected {width}: {SEPARATOR.join(fields)}")
                for row, fields in records
                if len(fields) != width
            ],
            done=done,
        )


def _decode(line: bytes) -> str:
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        return line.decode("latin-1").rstrip("\r\n")


def _fields(text: str, width: int) -> list[str]:
    fields = text.split(SEPARATOR)
    if width == len(MOVIES.required) < len(fields):  # a title may hold the separator
        return [fields[0], SEPARATOR.join(fields[1:-1]), fields[-1]]
    return fields


def _folder_names(src: Path) -> dict[str, Path | ZipMember]:
    return {path.name: path for path in src.iterdir() if path.is_file()}


def _zip_names(src: Path) -> dict[str, Path | ZipMember]:
    if not src.is_file():
        raise DataError(f"{src} not found; name the unpacked folder or the .zip of MovieLens")
    try:
        with ZipFile(src) as archive:
            members = [info.filename for info in archive.infolist() if not info.is_dir()]
    except BAD_ZIP as error:
        raise DataError(
            f"{src} is neither a folder nor a zip archive ({one_line(error)}); "
            "name MovieLens as published"
        ) from None
    return {PurePosixPath(name).name: ZipMember(src, name) for name in members}
