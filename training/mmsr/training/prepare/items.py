"""The catalogue: items of a file -> clean items on disk. Block by block, whatever its size."""

# R rows of one block, N items

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mmsr.training.dataset import ITEM_SCHEMA
from mmsr.training.prepare.blocks import Block, Columns, Reader
from mmsr.training.prepare.checks import count_rows, id_problems, reject_problems
from mmsr.training.prepare.images import ImageChecker
from mmsr.training.prepare.ledger import TableLedger
from mmsr.training.prepare.progress import Progress
from mmsr.training.prepare.values import (
    clean_categories,
    clean_text,
    id_text,
    read_ids,
    unsplit_separator,
)

TEXTS = ("title", "description", "brand")
COLUMNS = Columns(required=("item_id",), optional=(*TEXTS, "categories", "image"))
DUPLICATE = "duplicate item id"
UNSPLIT = "categories are one text, taken as one category; to split it: --list-separator '{}'"


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Ids of the clean items (a string array) and the rows of the file that they stand in."""

    item_ids: Any  # pa.Array [N]
    row_N: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row_N)


class ItemCleaner:
    """Cleans block after block; the first item of an id stays."""

    def __init__(
        self,
        reader: Reader,
        images: ImageChecker,
        ledger: TableLedger,
        list_separator: str | None = None,  # None: the form of the file has one or none
    ) -> None:
        self.reader = reader
        self.list_separator = list_separator or reader.list_separator
        self.told_separator = list_separator is not None
        self.images = images
        self.ledger = ledger
        self.seen: set[str] = set()

    def clean(self, to: Path, progress: Progress) -> Catalogue:
        """Write the clean items to a Parquet file; return their ids in its order."""
        ids: list[Any] = []
        rows: list[npt.NDArray[np.int64]] = []
        with pq.ParquetWriter(to, ITEM_SCHEMA) as writer:
            for block in self.reader.blocks():
                table, row_R = self._clean_block(block)
                writer.write_table(table)
                ids.extend(table["item_id"].chunks)
                rows.append(row_R)
                progress("items", block.done)
        self.ledger.ignored_columns = sorted(self.reader.ignored)
        return Catalogue(
            item_ids=pa.chunked_array(ids, pa.string()).combine_chunks(),
            row_N=np.concatenate(rows) if rows else np.empty(0, dtype=np.int64),
        )

    def _clean_block(self, block: Block) -> tuple[Any, npt.NDArray[np.int64]]:
        count_rows(block, self.ledger)
        ids = read_ids(block.columns["item_id"])
        good_R = reject_problems(block, {"item_id": id_problems(ids, "item")}, self.ledger)
        good_R &= self._first_of_their_id(block, ids.to_pylist(), good_R)
        row_R = block.row_R[good_R]
        kept = np.flatnonzero(good_R).tolist()
        columns = [ids.filter(pa.array(good_R))]
        columns += [self._texts(name, block, kept) for name in TEXTS]
        columns += [self._categories(block, kept), self._images(block, kept)]
        return pa.table(columns, schema=ITEM_SCHEMA), row_R

    def _first_of_their_id(
        self, block: Block, ids: list[str], good_R: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        first_R = np.ones(len(ids), dtype=bool)
        for i in np.flatnonzero(good_R):
            if ids[i] in self.seen:
                first_R[i] = False
            self.seen.add(ids[i])
        again = np.flatnonzero(~first_R)
        self.ledger.reject(DUPLICATE, block.row_R[again], [ids[i] for i in again])
        return first_R

    def _texts(self, name: str, block: Block, kept: list[int]) -> Any:
        values = block.values(name)
        texts = []
        for i in kept:
            text, readable = clean_text(values[i])
            texts.append(text)
            if not readable:
                self.ledger.note(f"{name} is no text", [block.row_R[i]], [str(values[i])])
        return pa.array(texts, pa.string())

    def _categories(self, block: Block, kept: list[int]) -> Any:
        values = block.values("categories")
        lists = []
        for i in kept:
            names, readable = clean_categories(values[i], self.list_separator)
            lists.append(names)
            if problem := self._categories_problem(values[i], names, readable):
                self.ledger.note(problem, [block.row_R[i]], [str(values[i])])
        return pa.array(lists, pa.list_(pa.string()))

    def _categories_problem(self, value: object, names: list[str], readable: bool) -> str | None:
        if not readable:
            return "categories are no list of texts"
        if self.told_separator:
            return None
        separator = unsplit_separator(value, names)
        return None if separator is None else UNSPLIT.format(separator)

    def _images(self, block: Block, kept: list[int]) -> Any:
        values = block.values("image")
        paths = [id_text(values[i]) or None for i in kept]
        pictures = self.images.check(paths)
        for i, picture in zip(kept, pictures, strict=True):
            if picture.problem is not None:
                self.ledger.note(picture.problem, [block.row_R[i]], [picture.detail])
        return pa.array([picture.path for picture in pictures], pa.string())
