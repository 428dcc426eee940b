"""Prepared data on disk: what `prepare` writes and every later stage reads.

data.json                      sizes, settings, category vocabulary, content hash
items.parquet                  one line an item; line i is item row i + 1 (row 0 is padding)
users.parquet                  user_id; line u is user u
sequences/items.npy            int32 [interactions], item rows, users one after another,
                               each user's oldest first
sequences/times.npy            float64 [interactions], the time (seconds, or the shop's unit)
sequences/offsets.npy          int64 [users + 1], user u owns items[offsets[u]:offsets[u + 1]]
report.json                    counts of what came in, was rejected (by reason) and is here
rejected.jsonl, notes.jsonl    every rejected row; every kept row with a part that is unusable
source/                        generated shops only: the files that the data were made from
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mmsr.bundle.errors import MmsrError, one_line
from mmsr.bundle.files import read_json, write_json
from mmsr.bundle.tables import UNREADABLE, read_only

DATA_FORMAT = 1
ITEM_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("description", pa.string()),
        pa.field("brand", pa.string()),
        pa.field("categories", pa.list_(pa.string())),
        pa.field("image", pa.string()),  # path below `DataInfo.image_root`, or null
    ]
)
SEQUENCE_DTYPES = {"items": np.int32, "times": np.float64, "offsets": np.int64}


class DataError(MmsrError):
    """Input data or prepared data are missing, malformed or empty."""


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """`data.json`."""

    format: int = DATA_FORMAT
    name: str
    items: int
    users: int
    interactions: int
    image_root: str  # absolute, or relative to the prepared folder
    categories: list[str]  # the vocabulary, in multi-hot order
    content_hash: str  # of items, users and sequences
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Prepared data, opened. The sequences are memory-mapped."""

    folder: Path
    info: DataInfo
    items_T: npt.NDArray[np.int32]  # T interactions
    times_T: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.int64]  # [users + 1]

    @property
    def image_root(self) -> Path:
        """Return the folder that image paths are relative to."""
        return self.folder / self.info.image_root  # an absolute image_root wins

    def item_table(self, columns: list[str] | None = None) -> pa.Table:
        """Read `items.parquet`; row i of the table is item row i + 1."""
        return _read_table(self.folder / "items.parquet", columns)

    def user_ids(self) -> list[str]:
        """Return every user's id, in user order."""
        ids: list[str] = _read_table(self.folder / "users.parquet")["user_id"].to_pylist()
        return ids


def save_info(folder: Path, info: DataInfo) -> None:
    """Write `data.json`; do it last, since its presence says that the folder is complete."""
    write_json(folder / "data.json", asdict(info))


def open_dataset(folder: Path) -> Dataset:
    """Open prepared data; `DataError` says what is missing."""
    path = folder / "data.json"
    if not path.is_file():
        raise DataError(
            f"{folder} holds no prepared data (no data.json); "
            f"make it with: mmsr-train prepare table SRC {folder}"
        )
    raw = read_json(path, "prepared data")
    if not isinstance(raw, dict) or raw.get("format") != DATA_FORMAT:
        raise DataError(
            f"{path}: format {raw.get('format') if isinstance(raw, dict) else raw!r}, "
            f"this release reads {DATA_FORMAT}; prepare the data again"
        )
    try:
        info = DataInfo(**raw)
        arrays = {name: read_only(folder / "sequences" / f"{name}.npy") for name in SEQUENCE_DTYPES}
        problem = _disagreement(folder, info, arrays)
    except (*UNREADABLE, pa.ArrowException) as error:
        problem = one_line(error)
    if problem:
        raise DataError(f"{folder} is damaged ({problem}); prepare the data again")
    return Dataset(
        folder=folder,
        info=info,
        items_T=arrays["items"],
        times_T=arrays["times"],
        offsets=arrays["offsets"],
    )


def _disagreement(folder: Path, info: DataInfo, arrays: dict[str, npt.NDArray[Any]]) -> str | None:
    """Return what does not fit together, if anything does not."""
    for name, dtype in SEQUENCE_DTYPES.items():
        if arrays[name].dtype != dtype:
            return f"sequences/{name}.npy has type {arrays[name].dtype}, expected {dtype}"
    for name, rows in (("items.parquet", info.items), ("users.parquet", info.users)):
        found = pq.read_metadata(folder / name).num_rows
        if found != rows:
            return f"{name} has {found} rows, data.json says {rows}"
    items_T, offsets = arrays["items"], arrays["offsets"]
    if {len(items_T), len(arrays["times"])} != {info.interactions}:
        return f"sequences of {len(items_T)} items, data.json says {info.interactions}"
    if len(offsets) != info.users + 1 or offsets[0] != 0 or offsets[-1] != len(items_T):
        return "sequences/offsets.npy does not part the sequences among the users"
    if np.any(np.diff(offsets) < 0) or items_T.min() < 1 or items_T.max() > info.items:
        return "sequences name items or places that are not there"
    return None


def _read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is damaged ({one_line(error)}); prepare the data again") from None
