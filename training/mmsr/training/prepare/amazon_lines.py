"""Lines of a published Amazon file, gzip or plain, and the records that stand in them."""

import ast
import json
import warnings
import zlib
from collections.abc import Iterator
from gzip import GzipFile
from pathlib import Path
from typing import Any, BinaryIO, cast

from mmsr.training.dataset import DataError
from mmsr.training.prepare.blocks import MAX_LINE_BYTES, open_binary, size_bytes

GZIP_MAGIC = b"\x1f\x8b"
MAX_LITERAL_BYTES = 1 << 20  # to parse one takes a hundred times its length
SHOWN_BYTES = 200  # of a line that cannot be read
EXPECTED = "expected an Amazon Reviews file as published: one record a line, mostly .json.gz"


class Lines:
    """A file's lines in order, one in memory at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.latest = 0  # bytes of the line that came last
        self._raw: BinaryIO | None = None
        self._size = 1

    @property
    def done(self) -> float:
        """Return the fraction of the file that has been read."""
        if self._raw is None or self._raw.closed:
            return 1.0
        return min(1.0, self._raw.tell() / self._size)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yield each line that is not blank, with its number from 1.

        Raises `DataError` if the file is no gzip though its name says so, or is damaged.
        """
        with open_binary(self.path) as raw:
            self._raw, self._size = raw, size_bytes(self.path)
            stream = self._stream(raw)
            number = 0
            while line := self._next(stream):
                number += 1
                self.latest = len(line)
                if line.strip():
                    yield number, line

    def _stream(self, raw: BinaryIO) -> BinaryIO:
        start = raw.read(SHOWN_BYTES)
        raw.seek(0)
        if start.startswith(GZIP_MAGIC):
            return cast(BinaryIO, GzipFile(fileobj=raw))
        if self.path.suffix == ".gz":
            raise DataError(
                f"{self.path} is not gzip (it starts with {shown(start)!r}); "
                "download it again, or drop .gz from its name if it is unpacked"
            )
        return raw

    def _next(self, stream: BinaryIO) -> bytes:
        try:
            line = stream.readline(MAX_LINE_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{self.path} is damaged or cut off ({error}); download it again"
            ) from None
        if len(line) > MAX_LINE_BYTES:
            raise DataError(
                f"{self.path} has a line of more than {MAX_LINE_BYTES} bytes; {EXPECTED}"
            )
        return line


def parse_record(line: bytes) -> dict[str, Any]:
    """Return a line's record, be it JSON or the Python literal that the 2014 metadata are.

    Raises `ValueError` that says what is wrong and what stands there.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        record = _parse_literal(line, str(error).partition(":")[0])
    if not isinstance(record, dict):
        raise ValueError(f"not a record: {shown(line)}")
    return record


def is_literal(line: bytes) -> bool:
    """Say whether a line that `parse_record` takes is a Python literal, not JSON."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return False


def shown(line: bytes) -> str:
    """Return the start of a line, for people to read."""
    return line[:SHOWN_BYTES].decode(errors="replace").strip()


def _parse_literal(line: bytes, json_problem: str) -> Any:
    if not line.lstrip().startswith(b"{") or len(line) > MAX_LITERAL_BYTES:
        raise ValueError(f"{json_problem}: {shown(line)}")
    try:
        with warnings.catch_warnings():  # a backslash that escapes nothing is only a backslash
            warnings.simplefilter("ignore")
            return ast.literal_eval(line.decode().strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"neither JSON nor a Python literal: {shown(line)}") from None
