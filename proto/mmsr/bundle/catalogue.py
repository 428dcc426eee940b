"""The items of a bundle: the shop's ids, in the order of the table rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mmsr.bundle.errors import BundleError, one_line
from mmsr.bundle.files import atomic_path

CATALOGUE = "catalogue.parquet"
PIECE = 2048  # values: about a millisecond
SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("categories", pa.list_(pa.string())),
        pa.field("available", pa.bool_(), nullable=False),
        pa.field("popularity", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Items in table order: element i is row i + 1 (row 0 is padding)."""

    item_ids: list[str]
    titles: list[str | None]
    categories: list[list[str]]
    available: npt.NDArray[np.bool_]  # [N]
    popularity: npt.NDArray[np.int64]  # [N], interactions in the prepared data, held-out ones too

    def __len__(self) -> int:
        return len(self.item_ids)

    def rows(self) -> dict[str, int]:
        """Map each item id to its row."""
        return {item_id: row for row, item_id in enumerate(self.item_ids, start=1)}

    def save(self, folder: Path) -> None:
        """Write `folder/catalogue.parquet`."""
        columns = [self.item_ids, self.titles, self.categories, self.available, self.popularity]
        table = pa.table(columns, schema=SCHEMA)
        with atomic_path(folder / CATALOGUE) as temporary:
            pq.write_table(table, temporary)


def load_catalogue(folder: Path, rest: Callable[[], None] = lambda: None) -> Catalogue:
    """Read `folder/catalogue.parquet`; `rest` is called after each piece of a millisecond or so."""
    path = folder / CATALOGUE
    try:
        table = pq.read_table(path, schema=SCHEMA)
        _check_whole(path, table)
        once: dict[str, str] = {}  # a name, and not one more for each item that has it
        catalogue = Catalogue(
            item_ids=list(_values(table["item_id"], rest)),
            titles=list(_values(table["title"], rest)),
            categories=[
                [once.setdefault(name, name) for name in names or ()]
                for names in _values(table["categories"], rest)
            ],
            available=table["available"].to_numpy(),
            popularity=table["popularity"].to_numpy(),
        )
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: a text that is no UTF-8
        raise BundleError(
            f"{path} is unreadable ({one_line(error)}); export the model again"
        ) from None
    distinct: set[str] = set()
    for start in range(0, len(catalogue), PIECE):
        distinct.update(catalogue.item_ids[start : start + PIECE])
        rest()
    if len(distinct) != len(catalogue):
        raise BundleError(f"{path}: an item id stands twice; export the model again")
    return catalogue


def _check_whole(path: Path, table: pa.Table) -> None:
    """Refuse gaps: pyarrow fills a column that the file lacks with nulls, whatever the schema."""
    for field in SCHEMA:
        gaps = table[field.name].null_count
        if gaps and not field.nullable:
            raise BundleError(
                f"{path}: {gaps} of {len(table)} items have no {field.name}; export the model again"
            )


def _values(column: pa.ChunkedArray, rest: Callable[[], None]) -> Iterator[Any]:
    """Give a column's values; pyarrow holds the interpreter while it makes them."""
    for start in range(0, len(column), PIECE):
        yield from column.slice(start, PIECE).to_pylist()
        rest()
