"""Keeps count of every row that is rejected or remarkable, and lists each in a file."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

REJECTED = "rejected.jsonl"
NOTES = "notes.jsonl"
SHOWN_CHARACTERS = 200  # of a value: ids and lines may be long


@dataclass(kw_only=True)
class TableLedger:
    """The rows of one source file.

    A rejected row is not in the prepared data; a noted one is, with something of it missing.
    Both are listed, but for rows that are left out at the user's wish.
    """

    file: str  # its name, as the lists say it
    rejected_file: TextIO
    notes_file: TextIO
    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    ignored_columns: list[str] = field(default_factory=list)

    def reject(self, reason: str, rows: Iterable[int], values: Iterable[str | None]) -> None:
        """List rows (from 1) that are left out, each with the value that is the reason."""
        if count := self._list(self.rejected_file, reason, rows, values):
            self.rejected[reason] += count

    def note(self, reason: str, rows: Iterable[int], values: Iterable[str | None]) -> None:
        """List rows (from 1) that stay, each with the value that could not be used."""
        if count := self._list(self.notes_file, reason, rows, values):
            self.notes[reason] += count

    def leave_out(self, reason: str, count: int) -> None:
        """Count rows that nobody asked for; nothing is wrong with them, so none is listed."""
        self.rows += count
        self.rejected[reason] += count

    @property
    def kept(self) -> int:
        """Return the number of rows that are neither rejected nor yet to be read."""
        return self.rows - self.rejected.total()

    def reasons(self) -> str:
        """Return the counts by reason as a phrase."""
        counts = ", ".join(f"{reason} ({count})" for reason, count in self.rejected.most_common())
        return f"{self.file}: {self.rows} rows, rejected: {counts or 'none'}"

    def _list(
        self, to: TextIO, reason: str, rows: Iterable[int], values: Iterable[str | None]
    ) -> int:
        count = 0
        for row, value in zip(rows, values, strict=True):
            line = {"file": self.file, "row": int(row), "reason": reason, "value": _clip(value)}
            to.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
        return count


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Both source files."""

    items: TableLedger
    interactions: TableLedger

    def reasons(self) -> str:
        """Return both files' counts by reason as a phrase."""
        return f"{self.items.reasons()}; {self.interactions.reasons()}"


@contextmanager
def open_ledger(folder: Path, items: Path, interactions: Path) -> Iterator[Ledger]:
    """Open the two lists in `folder` for rows of the two files."""
    with (
        (folder / REJECTED).open("w", encoding="utf-8") as rejected,
        (folder / NOTES).open("w", encoding="utf-8") as notes,
    ):
        yield Ledger(
            items=TableLedger(file=items.name, rejected_file=rejected, notes_file=notes),
            interactions=TableLedger(
                file=interactions.name, rejected_file=rejected, notes_file=notes
            ),
        )


def _clip(value: str | None) -> str | None:
    if value is None:
        return None
    text = value[:SHOWN_CHARACTERS].encode("utf-8", "replace").decode()  # what no file can hold
    return text if len(value) <= SHOWN_CHARACTERS else f"{text}… ({len(value)} characters)"
