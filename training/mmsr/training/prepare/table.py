"""A shop's files -> prepared data: clean, order, filter, number, write."""

# T interactions, N items, U users

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmsr.training.dataset import DataError
from mmsr.training.prepare.filters import Log, by_user_and_time, k_core, repeats
from mmsr.training.prepare.images import image_checker
from mmsr.training.prepare.interactions import COLUMNS as LOG_COLUMNS
from mmsr.training.prepare.interactions import LogLoader
from mmsr.training.prepare.items import COLUMNS as ITEM_COLUMNS
from mmsr.training.prepare.items import Catalogue, ItemCleaner
from mmsr.training.prepare.ledger import Ledger, open_ledger
from mmsr.training.prepare.progress import Progress
from mmsr.training.prepare.readers import open_reader
from mmsr.training.prepare.report import Report
from mmsr.training.prepare.sources import Sources
from mmsr.training.prepare.writer import Cleaned, write_prepared

DUPLICATE = "same user, item and timestamp as an earlier row"
POOR_USER = "user below the k-core"
POOR_ITEM = "item below the k-core"


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """How a table is prepared."""

    name: str
    image_root: str  # as data.json says it: absolute, or relative to the prepared folder
    k_core: int | None = None  # interactions that every user and item must have

    def __post_init__(self) -> None:
        if self.k_core is not None and self.k_core < 1:
            raise DataError(f"k-core of {self.k_core}; expected at least 1")


def prepare_table(
    sources: Sources, folder: Path, settings: TableSettings, progress: Progress
) -> Report:
    """Write prepared data into an empty folder; see `mmsr.training.dataset` for their form.

    Raises `DataError` for a file that cannot be read, lacks a column or leaves nothing over.
    """
    spool = folder / ".items.parquet"  # clean items, before it is known which of them stay
    items = open_reader(sources.items, ITEM_COLUMNS)
    interactions = open_reader(sources.interactions, LOG_COLUMNS)
    with open_ledger(folder, sources.items, sources.interactions) as ledger:
        with image_checker(sources.image_root) as images:
            catalogue = ItemCleaner(items, images, ledger.items).clean(spool, progress)
        _require(len(catalogue), "items", ledger)
        log, user_ids = LogLoader(interactions, ledger.interactions).load(catalogue, progress)
        progress("order and filters", 0.0)
        log = _without_repeats(by_user_and_time(log), catalogue, user_ids, ledger)
        staying_N = np.ones(len(catalogue), dtype=bool)
        if settings.k_core is not None:
            log, staying_N = _core(log, catalogue, user_ids, settings.k_core, ledger)
        _require(len(log), "interactions", ledger)
        progress("order and filters", 1.0)
    cleaned = Cleaned(log=log, user_ids=user_ids, spool=spool, staying_N=staying_N)
    report = write_prepared(cleaned, folder, asdict(settings), ledger, progress)
    spool.unlink()
    return report


def _require(count: int, what: str, ledger: Ledger) -> None:
    if not count:
        raise DataError(f"no {what} left; {ledger.reasons()}")


def _without_repeats(log: Log, catalogue: Catalogue, user_ids: Any, ledger: Ledger) -> Log:
    repeated_T = repeats(log)
    again = log.take(repeated_T)
    users = user_ids.take(pa.array(again.user_T)).to_pylist()
    items = catalogue.item_ids.take(pa.array(again.item_T - 1)).to_pylist()
    shown = [f"{u}, {i}, {t:.15g}" for u, i, t in zip(users, items, again.time_T, strict=True)]
    ledger.interactions.reject(DUPLICATE, again.row_T, shown)
    return log.take(~repeated_T)


def _core(
    log: Log, catalogue: Catalogue, user_ids: Any, k: int, ledger: Ledger
) -> tuple[Log, npt.NDArray[np.bool_]]:
    """Return the k-core and which items are in it; an item that nobody bought is not."""
    poor_user_T, poor_item_T = k_core(log, k)
    for reason, poor_T, ids, codes_T in (
        (POOR_USER, poor_user_T, user_ids, log.user_T),
        (POOR_ITEM, poor_item_T, catalogue.item_ids, log.item_T - 1),
    ):
        poor = np.flatnonzero(poor_T)
        texts = ids.take(pa.array(codes_T[poor])).to_pylist()
        ledger.interactions.reject(reason, log.row_T[poor], texts)
    left = log.take(~(poor_user_T | poor_item_T))
    staying_N = np.zeros(len(catalogue), dtype=bool)
    staying_N[left.item_T - 1] = True
    leaving = pa.array(np.flatnonzero(~staying_N))
    texts = catalogue.item_ids.take(leaving).to_pylist()
    ledger.items.reject(POOR_ITEM, catalogue.row_N[~staying_N], texts)
    return left, staying_N
