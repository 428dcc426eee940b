"""The items that a log names, no more and no fewer, whatever a catalogue's file holds."""

# N items that the log names, R rows of one block

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mmsr.training.dataset import DataError
from mmsr.training.prepare.blocks import Block, Reader, batches
from mmsr.training.prepare.items import COLUMNS
from mmsr.training.prepare.values import read_ids

UNNAMED = "item without an interaction"
NO_CONTENT = "no line in the items file: kept without content"


class NamedItems:
    """A reader of items, restricted to those of a log.

    Items that the file does not have come last, with nothing but an id, in rows after the
    file's last one.
    """

    def __init__(self, reader: Reader, item_ids: Any) -> None:
        self.reader = reader
        self.item_ids = item_ids  # string array [N]
        self.list_separator = reader.list_separator
        self.ignored = reader.ignored

    def blocks(self) -> Iterator[Block]:
        """Yield the named items; `DataError` if the file has none of them."""
        found_N = np.zeros(len(self.item_ids), dtype=bool)
        last_row = 0
        for block in self.reader.blocks():
            malformed = (row for row, _ in block.malformed)
            last_row = max(last_row, *block.row_R.tolist()[-1:], *malformed)
            ids = read_ids(block.columns["item_id"])
            place_R = pc.fill_null(pc.index_in(ids, value_set=self.item_ids), -1).to_numpy()
            found_N[place_R[place_R >= 0]] = True
            no_id_R = pc.fill_null(pc.equal(ids, ""), True).to_numpy(zero_copy_only=False)
            yield block.only((place_R >= 0) | no_id_R, UNNAMED)  # no id: for the cleaner to say
        self.ignored = self.reader.ignored
        if not found_N.any():
            raise DataError(
                f"none of the {len(self.item_ids)} items with interactions (such as "
                f"{self.item_ids[0].as_py()!r}) is in the items file; "
                "are both files of one category and edition?"
            )
        absent = self.item_ids.take(np.flatnonzero(~found_N)).to_pylist()
        for first, batch in batches(absent):
            yield _bare(batch, last_row + first)


def _bare(ids: list[str], first_row: int) -> Block:
    rows = range(first_row, first_row + len(ids))
    empty: list[None] = [None] * len(ids)
    return Block(
        row_R=np.array(rows, dtype=np.int64),
        columns={name: list(empty) for name in COLUMNS.known} | {"item_id": ids},
        malformed=[],
        done=1.0,
        notes=[(row, NO_CONTENT, item) for row, item in zip(rows, ids, strict=True)],
    )
