"""Writes cleaned items and interactions as prepared data, and counts what they are."""

# T interactions, N items, U users

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmsr.bundle.tables import save_table
from mmsr.training.dataset import ITEM_SCHEMA, DataInfo, save_info
from mmsr.training.prepare.blocks import BLOCK_ROWS
from mmsr.training.prepare.brands import add_brands
from mmsr.training.prepare.content import ContentHash
from mmsr.training.prepare.filters import Log
from mmsr.training.prepare.items import TEXTS
from mmsr.training.prepare.ledger import Ledger
from mmsr.training.prepare.progress import Progress
from mmsr.training.prepare.report import Prepared, Report, file_report
from mmsr.training.split import MIN_EVALUATED

USER_SCHEMA = pa.schema([pa.field("user_id", pa.string(), nullable=False)])


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What is left of the input, before items and users get their final numbers."""

    log: Log  # by user and time; codes of users, rows of items in `spool`
    user_ids: Any  # string array, by code
    spool: Path  # clean items
    staying_N: npt.NDArray[np.bool_]  # which of them are in the catalogue
    brands: frozenset[str] = frozenset()  # those that become categories


@dataclass(kw_only=True)
class ItemCounts:
    """Gathered while the items are written."""

    items: int = 0
    with_text: int = 0
    with_image: int = 0
    with_categories: int = 0
    categories: Counter[str] = field(default_factory=Counter)

    def add(self, table: Any) -> None:
        """Count one table of items."""
        self.items += table.num_rows
        texts = [pc.is_valid(table[name]) for name in TEXTS]
        self.with_text += _count(pc.or_(pc.or_(texts[0], texts[1]), texts[2]))
        self.with_image += table.num_rows - table["image"].null_count
        self.with_categories += _count(pc.greater(pc.list_value_length(table["categories"]), 0))
        for pair in pc.value_counts(pc.list_flatten(table["categories"])):
            self.categories[pair["values"].as_py()] += pair["counts"].as_py()


def write_prepared(
    cleaned: Cleaned, folder: Path, settings: dict[str, Any], ledger: Ledger, progress: Progress
) -> Report:
    """Write every file of the prepared form into `folder`, `data.json` last."""
    content = ContentHash()
    counts = _write_items(cleaned, folder, content, progress)
    users = _write_sequences(cleaned, folder, content)
    log = cleaned.log
    bought = len(np.unique(log.item_T))
    lengths_U = np.diff(np.append(users, len(log)))
    report = Report(
        items=file_report(ledger.items, counts.items),
        interactions=file_report(ledger.interactions, len(log)),
        prepared=Prepared(
            items=counts.items,
            users=len(users),
            interactions=len(log),
            mean_length=round(len(log) / len(users), 4),
            categories=len(counts.categories),
            items_with_text=counts.with_text,
            items_with_image=counts.with_image,
            items_with_categories=counts.with_categories,
            items_never_bought=counts.items - bought,
            users_below_3_interactions=int((lengths_U < MIN_EVALUATED).sum()),
            users_without_kept_interactions=len(cleaned.user_ids) - len(users),
        ),
        settings=settings,
    )
    report.save(folder)
    info = DataInfo(
        name=settings["name"],
        items=counts.items,
        users=len(users),
        interactions=len(log),
        image_root=settings["image_root"],
        categories=sorted(counts.categories),
        content_hash=content.hexdigest(),
        settings=settings,
    )
    save_info(folder, info)
    return report


def _write_items(
    cleaned: Cleaned, folder: Path, content: ContentHash, progress: Progress
) -> ItemCounts:
    counts = ItemCounts()
    first = 0
    with (
        pq.ParquetFile(cleaned.spool) as spool,
        pq.ParquetWriter(folder / "items.parquet", ITEM_SCHEMA) as writer,
    ):
        for batch in spool.iter_batches(BLOCK_ROWS):
            staying = cleaned.staying_N[first : first + batch.num_rows]
            table = pa.Table.from_batches([batch], ITEM_SCHEMA).filter(pa.array(staying))
            if cleaned.brands:
                table = add_brands(table, cleaned.brands)
            writer.write_table(table)
            content.add_table(table)
            counts.add(table)
            first += batch.num_rows
            progress("writing", first / len(cleaned.staying_N))
    return counts


def _write_sequences(cleaned: Cleaned, folder: Path, content: ContentHash) -> npt.NDArray[np.int64]:
    """Write users and sequences; return where each user's interactions begin [U]."""
    log = cleaned.log
    row_N = np.cumsum(cleaned.staying_N, dtype=np.int32)
    starts_U = np.flatnonzero(np.diff(log.user_T, prepend=-1))
    arrays: dict[str, npt.NDArray[Any]] = {
        "items": row_N[log.item_T - 1],
        "times": log.time_T,
        "offsets": np.append(starts_U, len(log)).astype(np.int64),
    }
    (folder / "sequences").mkdir()
    for name, array in arrays.items():
        save_table(folder / "sequences" / f"{name}.npy", array)
        content.add_array(name, array)
    users = pa.table([cleaned.user_ids.take(pa.array(log.user_T[starts_U]))], schema=USER_SCHEMA)
    pq.write_table(users, folder / "users.parquet")
    content.add_table(users)
    return starts_U


def _count(mask: Any) -> int:
    return int(pc.sum(mask).as_py() or 0)
