"""The log: interactions of a file -> arrays in memory (about 50 bytes each while they are made)."""

# R rows of one block, T interactions, U users

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmsr.training.prepare.blocks import Block, Columns, Reader
from mmsr.training.prepare.checks import (
    count_rows,
    id_problems,
    reject_problems,
    time_problems,
)
from mmsr.training.prepare.filters import Log
from mmsr.training.prepare.items import Catalogue
from mmsr.training.prepare.ledger import TableLedger
from mmsr.training.prepare.progress import Progress
from mmsr.training.prepare.values import read_ids, read_times

COLUMNS = Columns(required=("user_id", "item_id", "timestamp"))
UNKNOWN_ITEM = "item not in the items file"


@dataclass(frozen=True, kw_only=True)
class NamedLog:
    """Interactions as their file names them."""

    log: Log  # codes of users and of items, both from 0
    user_ids: Any  # pa.Array [U], by code
    item_ids: Any  # pa.Array, by code

    def among(self, catalogue: Catalogue, ledger: TableLedger) -> Log:
        """Return the interactions with items of the catalogue, items as its rows from 1."""
        places = pc.index_in(self.item_ids, value_set=catalogue.item_ids)
        row_of_code = pc.fill_null(pc.add(places, 1), 0).to_numpy().astype(np.int32)
        log = replace(self.log, item_T=row_of_code[self.log.item_T])
        known_T = log.item_T > 0
        unknown = self.item_ids.take(pa.array(self.log.item_T[~known_T]))
        ledger.reject(UNKNOWN_ITEM, log.row_T[~known_T], unknown.to_pylist())
        return log.take(known_T)


class LogLoader:
    """Collects the good rows block after block, ids as codes."""

    def __init__(self, reader: Reader, ledger: TableLedger) -> None:
        self.reader = reader
        self.ledger = ledger
        self.users: list[Any] = []  # dictionary arrays, one a block
        self.items: list[Any] = []
        self.times: list[npt.NDArray[np.float64]] = []
        self.rows: list[npt.NDArray[np.int64]] = []

    def load(self, progress: Progress) -> NamedLog:
        """Return the good interactions in file order.

        Users and items are numbered in the order in which the file first names them.
        """
        for block in self.reader.blocks():
            self._add(block)
            progress("interactions", block.done)
        self.ledger.ignored_columns = sorted(self.reader.ignored)
        user_T, user_ids = _codes(self.users)
        item_T, item_ids = _codes(self.items)
        log = Log(
            user_T=user_T,
            item_T=item_T,
            time_T=np.concatenate([*self.times, np.empty(0)]),
            row_T=np.concatenate([*self.rows, np.empty(0, dtype=np.int64)]),
        )
        return NamedLog(log=log, user_ids=user_ids, item_ids=item_ids)

    def _add(self, block: Block) -> None:
        count_rows(block, self.ledger)
        users = read_ids(block.columns["user_id"])
        items = read_ids(block.columns["item_id"])
        seconds_R, absent_R = read_times(block.columns["timestamp"])
        checks = {
            "user_id": id_problems(users, "user"),
            "item_id": id_problems(items, "item"),
            "timestamp": time_problems(seconds_R, absent_R),
        }
        good_R = reject_problems(block, checks, self.ledger)
        good = pa.array(good_R)
        self.users.append(users.filter(good).dictionary_encode())
        self.items.append(items.filter(good).dictionary_encode())
        self.times.append(seconds_R[good_R])
        self.rows.append(block.row_R[good_R])


def _codes(chunks: list[Any]) -> tuple[npt.NDArray[np.int32], Any]:
    """Return codes [T] and the texts that they stand for; empties `chunks` as it goes."""
    if not chunks:
        return np.empty(0, dtype=np.int32), pa.array([], pa.string())
    unified = pa.chunked_array(chunks).unify_dictionaries()
    chunks.clear()
    codes = [chunk.indices.to_numpy(zero_copy_only=False) for chunk in unified.chunks]
    return np.concatenate(codes).astype(np.int32), unified.chunk(0).dictionary
