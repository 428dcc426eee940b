"""Reads JSON lines. A line that is no JSON object is malformed, not an error."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmsr.training.prepare.blocks import (
    Block,
    Columns,
    batches,
    check_columns,
    lines_of,
    note_ignored,
    open_binary,
    size_bytes,
)

SCALARS = frozenset({"user_id", "item_id", "timestamp"})


class JsonLinesReader:
    """A file of JSON objects, one a line, in UTF-8."""

    list_separator: str | None = None

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self.columns = columns
        self.ignored: set[str] = set()
        self._found: set[str] = set()

    def blocks(self) -> Iterator[Block]:
        """Yield the file's objects, blank lines left out."""
        empty = True
        with open_binary(self.path) as file:
            size = size_bytes(self.path)
            read = 0
            for first, lines in batches(lines_of(self.path, file), len):
                read += sum(map(len, lines))
                block = self._block(first, lines, read / size)
                if empty and len(block.row_R):  # an object may leave a key out; not all of them
                    check_columns(self.path, sorted(self._found | self.ignored), self.columns)
                    empty = False
                yield block

    def _block(self, first: int, lines: list[bytes], done: float) -> Block:
        rows: list[tuple[int, dict[str, Any]]] = []
        malformed: list[tuple[int, str]] = []
        for row, line in enumerate(lines, start=first):
            if not line.strip():
                continue
            try:
                found = _parse_object(line)
            except (ValueError, RecursionError) as error:
                text = line[:200].decode(errors="replace").strip()
                malformed.append((row, f"{str(error).partition(':')[0]}: {text}"))
                continue
            self._found.update(found.keys() & self.columns.known)
            note_ignored(self.ignored, found.keys() - self.columns.known)
            rows.append((row, found))
        return Block(
            row_R=np.array([row for row, _ in rows], dtype=np.int64),
            columns={name: [r.get(name) for _, r in rows] for name in self.columns.known},
            malformed=malformed,
            done=done,
        )


def _parse_object(line: bytes) -> dict[str, Any]:
    # Strictly: of bytes, json would take UTF-16, and halves of surrogate pairs, which are no text.
    found = json.loads(line.decode("utf-8-sig"))
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    if b"\\u" in line:  # half a surrogate pair is legal JSON but no text
        json.dumps(found, ensure_ascii=False).encode()
    for name in SCALARS & found.keys():
        if isinstance(found[name], bool | list | dict):
            raise ValueError(f"{name} is neither a text nor a number")
    return found
