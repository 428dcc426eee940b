"""The stages from readers to prepared data: clean, order, filter, number, write. Opens no input."""

# T interactions, N items, U users

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmsr.training.dataset import DataError
from mmsr.training.prepare.blocks import Reader
from mmsr.training.prepare.brands import common_brands
from mmsr.training.prepare.filters import Log, by_user_and_time, k_core, repeats
from mmsr.training.prepare.images import image_checker
from mmsr.training.prepare.interactions import LogLoader, NamedLog
from mmsr.training.prepare.items import Catalogue, ItemCleaner
from mmsr.training.prepare.ledger import Ledger
from mmsr.training.prepare.named_items import NamedItems
from mmsr.training.prepare.picture_folder import Pictures, WithPictures
from mmsr.training.prepare.progress import Progress
from mmsr.training.prepare.report import Report
from mmsr.training.prepare.writer import Cleaned, write_prepared

DUPLICATE = "same user, item and timestamp as an earlier row"
POOR_USER = "user below the k-core"
POOR_ITEM = "item below the k-core"


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """How data are prepared."""

    name: str
    image_root: str  # as data.json says it: absolute, or relative to the prepared folder
    k_core: int | None = None  # interactions that every user and item must have
    brand_items: int | None = None  # a brand of so many items is a category, too
    list_separator: str | None = None  # parts categories given as one text; None: as the reader

    def __post_init__(self) -> None:
        if self.brand_items is not None and self.brand_items < 1:
            raise DataError(f"brand-categories {self.brand_items}; expected at least 1 item")
        if self.k_core is not None and self.k_core < 1:
            raise DataError(f"k-core of {self.k_core}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class ImportSettings(TableSettings):
    """How a published data set is prepared."""

    origin: str  # what it is and of which edition
    min_rating: float | None = None  # interactions rated lower are left out


class Preparation:
    """One run into an empty folder. Items and log may be read in either order; `write` is last."""

    def __init__(
        self, folder: Path, settings: TableSettings, ledger: Ledger, progress: Progress
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.ledger = ledger
        self.progress = progress
        self.spool = folder / ".items.parquet"  # clean items, before it is known which ones stay

    def clean_items(self, reader: Reader, image_root: Path) -> Catalogue:
        """Read the items; `DataError` if none is good."""
        with image_checker(image_root) as images:
            cleaner = ItemCleaner(reader, images, self.ledger.items, self.settings.list_separator)
            catalogue = cleaner.clean(self.spool, self.progress)
        self._require(len(catalogue), "items")
        return catalogue

    def read_log(self, reader: Reader) -> NamedLog:
        """Read the interactions."""
        return LogLoader(reader, self.ledger.interactions).load(self.progress)

    def staying_items(self, named: NamedLog) -> Any:
        """Return the ids [N] of the items that the k-core, if one is wanted, will leave."""
        if self.settings.k_core is None:
            return named.item_ids
        log = by_user_and_time(named.log)
        log = log.take(~repeats(log))
        poor_user_T, poor_item_T = k_core(log, self.settings.k_core)
        left = log.take(~(poor_user_T | poor_item_T))
        return named.item_ids.take(pa.array(np.unique(left.item_T)))

    def write_named(self, named: NamedLog, items: Reader, pictures: Pictures) -> Report:
        """Write the log and exactly the items that it names; `DataError` if nothing is left."""
        self._require(len(named.log), "interactions")
        reader = WithPictures(NamedItems(items, named.item_ids), pictures)
        return self.write(named, self.clean_items(reader, pictures.folder or self.folder))

    def write(self, named: NamedLog, catalogue: Catalogue) -> Report:
        """Write everything; `DataError` if no interaction is left."""
        log = named.among(catalogue, self.ledger.interactions)
        self.progress("order and filters", 0.0)
        log = self._without_repeats(by_user_and_time(log), catalogue, named.user_ids)
        staying_N = np.ones(len(catalogue), dtype=bool)
        if self.settings.k_core is not None:
            log, staying_N = self._core(log, catalogue, named.user_ids, self.settings.k_core)
        self._require(len(log), "interactions")
        self.progress("order and filters", 1.0)
        least = self.settings.brand_items
        cleaned = Cleaned(
            log=log,
            user_ids=named.user_ids,
            spool=self.spool,
            staying_N=staying_N,
            brands=common_brands(self.spool, staying_N, least) if least else frozenset(),
        )
        report = write_prepared(
            cleaned, self.folder, asdict(self.settings), self.ledger, self.progress
        )
        self.spool.unlink()
        return report

    def _require(self, count: int, what: str) -> None:
        if not count:
            raise DataError(f"no {what} left; {self.ledger.reasons()}")

    def _without_repeats(self, log: Log, catalogue: Catalogue, user_ids: Any) -> Log:
        repeated_T = repeats(log)
        again = log.take(repeated_T)
        users = user_ids.take(pa.array(again.user_T)).to_pylist()
        items = catalogue.item_ids.take(pa.array(again.item_T - 1)).to_pylist()
        shown = [f"{u}, {i}, {t:.15g}" for u, i, t in zip(users, items, again.time_T, strict=True)]
        self.ledger.interactions.reject(DUPLICATE, again.row_T, shown)
        return log.take(~repeated_T)

    def _core(
        self, log: Log, catalogue: Catalogue, user_ids: Any, k: int
    ) -> tuple[Log, npt.NDArray[np.bool_]]:
        """Return the k-core and which items are in it; an item that nobody bought is not."""
        poor_user_T, poor_item_T = k_core(log, k)
        for reason, poor_T, ids, codes_T in (
            (POOR_USER, poor_user_T, user_ids, log.user_T),
            (POOR_ITEM, poor_item_T, catalogue.item_ids, log.item_T - 1),
        ):
            poor = np.flatnonzero(poor_T)
            texts = ids.take(pa.array(codes_T[poor])).to_pylist()
            self.ledger.interactions.reject(reason, log.row_T[poor], texts)
        left = log.take(~(poor_user_T | poor_item_T))
        staying_N = np.zeros(len(catalogue), dtype=bool)
        staying_N[left.item_T - 1] = True
        leaving = pa.array(np.flatnonzero(~staying_N))
        texts = catalogue.item_ids.take(leaving).to_pylist()
        self.ledger.items.reject(POOR_ITEM, catalogue.row_N[~staying_N], texts)
        return left, staying_N
