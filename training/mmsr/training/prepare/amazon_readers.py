"""Reads Amazon reviews and item metadata in blocks. Fields that nobody uses do not stay."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmsr.training.prepare.amazon_editions import Edition
from mmsr.training.prepare.amazon_lines import Lines, parse_record, shown
from mmsr.training.prepare.amazon_records import (
    ITEM_FIELDS,
    PAGE_CODE,
    PAGE_CODE_MARK,
    REVIEW_FIELDS,
    item_values,
    whole,
)
from mmsr.training.prepare.blocks import Block, batches, note_ignored
from mmsr.training.prepare.interactions import COLUMNS as LOG_COLUMNS
from mmsr.training.prepare.items import COLUMNS as ITEM_COLUMNS
from mmsr.training.prepare.ratings import RATING, at_least

MS_PER_S = 1000
Row = tuple[int, dict[str, Any] | str]  # a text says what is wrong with the line


class ReviewsReader:
    """Who reviewed what and when; the text of a review is dropped line by line."""

    list_separator: str | None = None

    def __init__(self, path: Path, edition: Edition, min_rating: float | None) -> None:
        self.path = path
        self.edition = edition
        self.min_rating = min_rating
        self.ignored: set[str] = set()

    def blocks(self) -> Iterator[Block]:
        """Yield the reviews that have at least the wanted rating."""
        lines = Lines(self.path)
        for _, rows in batches(self._rows(lines), lambda _: lines.latest):
            block = _block(rows, (*LOG_COLUMNS.known, RATING), lines.done)
            yield at_least(block, self.min_rating)

    def _rows(self, lines: Lines) -> Iterator[Row]:
        fields = REVIEW_FIELDS[self.edition]
        for number, line in lines:
            try:
                record = parse_record(line)
                values = [_scalar(record, name, line) for name in fields]
            except ValueError as error:
                yield number, str(error)
                continue
            note_ignored(self.ignored, record.keys() - fields)
            user, item, time, rating = values
            if self.edition is Edition.Y2023 and isinstance(time, int | float):
                time /= MS_PER_S
            yield number, {"user_id": user, "item_id": item, "timestamp": time, RATING: rating}


class MetadataReader:
    """Items; their column `image` holds links."""

    list_separator: str | None = None

    def __init__(self, path: Path, edition: Edition) -> None:
        self.path = path
        self.edition = edition
        self.ignored: set[str] = set()

    def blocks(self) -> Iterator[Block]:
        """Yield all items."""
        lines = Lines(self.path)
        for _, rows in batches(self._rows(lines), lambda _: lines.latest):
            block = _block(rows, ITEM_COLUMNS.known, lines.done)
            yield _without_page_code(block)

    def _rows(self, lines: Lines) -> Iterator[Row]:
        fields = ITEM_FIELDS[self.edition]
        for number, line in lines:
            try:
                record = parse_record(line)
                _scalar(record, fields[0], line)
            except ValueError as error:
                yield number, str(error)
                continue
            note_ignored(self.ignored, record.keys() - fields)
            yield number, item_values(record, self.edition)


def _scalar(record: dict[str, Any], name: str, line: bytes) -> str | int | float | None:
    value: object = record.get(name)
    if isinstance(value, str) and value == whole(value):
        return value
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise ValueError(f"{name} is neither a text nor a number: {shown(line)}")


def _block(rows: list[Row], names: tuple[str, ...], done: float) -> Block:
    good = [(number, row) for number, row in rows if not isinstance(row, str)]
    return Block(
        row_R=np.array([number for number, _ in good], dtype=np.int64),
        columns={name: [row[name] for _, row in good] for name in names},
        malformed=[(number, row) for number, row in rows if isinstance(row, str)],
        done=done,
    )


def _without_page_code(block: Block) -> Block:
    titles = block.columns["title"]
    for place, title in enumerate(titles):
        if isinstance(title, str) and PAGE_CODE_MARK in title:
            block.notes.append((int(block.row_R[place]), PAGE_CODE, title))
            titles[place] = None
    return block
