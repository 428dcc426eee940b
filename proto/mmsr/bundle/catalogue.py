"""The items of a bundle: the shop's ids, in the order of the table rows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mmsr.bundle.errors import BundleError
from mmsr.bundle.files import atomic_path

CATALOGUE = "catalogue.parquet"
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


def load_catalogue(folder: Path) -> Catalogue:
    """Read `folder/catalogue.parquet`."""
    path = folder / CATALOGUE
    try:
        table = pq.read_table(path, schema=SCHEMA)
    except (OSError, pa.ArrowException) as error:
        raise BundleError(f"{path} is unreadable ({error}); export the model again") from None
    catalogue = Catalogue(
        item_ids=table["item_id"].to_pylist(),
        titles=table["title"].to_pylist(),
        categories=[c or [] for c in table["categories"].to_pylist()],
        available=table["available"].to_numpy(),
        popularity=table["popularity"].to_numpy(),
    )
    if len(set(catalogue.item_ids)) != len(catalogue):
        raise BundleError(f"{path}: an item id stands twice; export the model again")
    return catalogue
