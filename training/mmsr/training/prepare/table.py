"""A shop's files -> prepared data."""

from pathlib import Path

from mmsr.training.config import PrepareConfig
from mmsr.training.prepare.interactions import COLUMNS as LOG_COLUMNS
from mmsr.training.prepare.items import COLUMNS as ITEM_COLUMNS
from mmsr.training.prepare.ledger import open_ledger
from mmsr.training.prepare.preparation import Preparation, TableSettings
from mmsr.training.prepare.progress import Progress
from mmsr.training.prepare.readers import open_reader
from mmsr.training.prepare.report import Report
from mmsr.training.prepare.sources import Sources

__all__ = ["TableSettings", "prepare_table", "table_settings"]


def table_settings(source: Path, sources: Sources, config: PrepareConfig) -> TableSettings:
    """Return how a shop's folder is prepared, as its recipe says."""
    return TableSettings(
        name=source.resolve().name,
        image_root=str(sources.image_root),
        k_core=config.k_core,
        brand_items=config.brand_categories,
        list_separator=config.list_separator,
    )


def prepare_table(
    sources: Sources, folder: Path, settings: TableSettings, progress: Progress
) -> Report:
    """Write prepared data into an empty folder; see `mmsr.training.dataset` for their form.

    Raises `DataError` for a file that cannot be read, lacks a column or leaves nothing over.
    """
    items = open_reader(sources.items, ITEM_COLUMNS)
    interactions = open_reader(sources.interactions, LOG_COLUMNS)
    with open_ledger(folder, sources.items, sources.interactions) as ledger:
        preparation = Preparation(folder, settings, ledger, progress)
        catalogue = preparation.clean_items(items, sources.image_root)
        return preparation.write(preparation.read_log(interactions), catalogue)
