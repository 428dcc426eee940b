"""`names.parquet` of a run: what its rows of ids and of categories stand for.

The data that a run was trained on may be replaced; the names stay with its weights, so that
another run can begin with them.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmsr.bundle.files import atomic_path
from mmsr.training.checkpoint import RunError, RunInfo
from mmsr.training.dataset import Dataset, open_dataset

NAMES = "names.parquet"
ITEM, CATEGORY = "item", "category"


@dataclass(frozen=True, kw_only=True)
class RunNames:
    """Item i is row i + 1 of the id table; category c is column c of the multi-hot vectors."""

    items: list[str]
    categories: list[str]


def names_of(dataset: Dataset) -> RunNames:
    """Return the names that prepared data have now."""
    items = dataset.item_table(["item_id"])["item_id"].to_pylist()
    return RunNames(items=items, categories=dataset.info.categories)


def save_names(run: Path, names: RunNames) -> None:
    """Write `names.parquet`."""
    kinds = [ITEM] * len(names.items) + [CATEGORY] * len(names.categories)
    table = pa.table(
        {
            "kind": pa.array(kinds).dictionary_encode(),
            "name": pa.array([*names.items, *names.categories], pa.string()),
        }
    )
    with atomic_path(run / NAMES) as temporary:
        pq.write_table(table, temporary)


def load_names(run: Path, info: RunInfo) -> RunNames:
    """Read `names.parquet`; a run that has none is asked for its data."""
    path = run / NAMES
    if not path.is_file():
        return _from_data(run, info)
    try:
        table = pq.read_table(path)
        return RunNames(items=_names(table, ITEM), categories=_names(table, CATEGORY))
    except (OSError, KeyError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(f"{path} is damaged ({reason}); train again") from None


def _names(table: pa.Table, kind: str) -> list[str]:
    found: list[str] = table.filter(pc.equal(table["kind"], kind))["name"].to_pylist()
    return found


def _from_data(run: Path, info: RunInfo) -> RunNames:
    dataset = open_dataset(Path(info.data_folder))
    if dataset.info.content_hash != info.data_hash:
        raise RunError(
            f"{run} has no {NAMES}, and {info.data_folder} no longer holds the data that it was "
            "trained on; which item its rows stand for cannot be told; begin without it"
        )
    return names_of(dataset)
