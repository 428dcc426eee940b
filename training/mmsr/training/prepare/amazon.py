"""Amazon Reviews as published (2014, 2018, 2023) -> prepared data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsr.training.prepare.amazon_editions import Edition
from mmsr.training.prepare.amazon_readers import MetadataReader, ReviewsReader
from mmsr.training.prepare.fetch import Failures, FetchSettings, fetch_images
from mmsr.training.prepare.fetch_pace import Clock
from mmsr.training.prepare.ledger import open_ledger
from mmsr.training.prepare.picture_folder import Pictures
from mmsr.training.prepare.preparation import ImportSettings, Preparation
from mmsr.training.prepare.progress import Progress
from mmsr.training.prepare.report import Report
from mmsr.training.prepare.values import id_text


@dataclass(frozen=True, kw_only=True)
class AmazonFiles:
    """The two files of a category, and where its pictures are or are to be."""

    reviews: Path
    metadata: Path
    edition: Edition
    images: Path | None = None
    fetch: FetchSettings | None = None  # fetch what `images` lacks; needs `images`


def prepare_amazon(
    files: AmazonFiles,
    folder: Path,
    settings: ImportSettings,
    progress: Progress,
    clock: Clock | None = None,
) -> Report:
    """Write prepared data of all reviewed items into an empty folder.

    Raises `DataError` for a file that cannot be read, files that do not belong together, or
    if nothing is left over. A picture that cannot be fetched is a note.
    """
    with open_ledger(folder, files.metadata, files.reviews) as ledger:
        preparation = Preparation(folder, settings, ledger, progress)
        reviews = ReviewsReader(files.reviews, files.edition, settings.min_rating)
        named = preparation.read_log(reviews)
        failed: Failures = {}
        if files.fetch is not None and files.images is not None:
            links = _links(files, preparation.staying_items(named), progress)
            failed = fetch_images(links, files.images, files.fetch, progress, clock)
        pictures = Pictures(folder=files.images, failed=failed)
        items = MetadataReader(files.metadata, files.edition)
        return preparation.write_named(named, items, pictures)


def _links(files: AmazonFiles, item_ids: Any, progress: Progress) -> dict[str, str]:
    """Return the wanted items' links; an item's first line that has one counts."""
    wanted = set(item_ids.to_pylist())
    links: dict[str, str] = {}
    for block in MetadataReader(files.metadata, files.edition).blocks():
        for value, link in zip(block.values("item_id"), block.values("image"), strict=True):
            item = id_text(value)
            if link is not None and item in wanted and item is not None:
                links.setdefault(item, link)
        progress("image links", block.done)
    return links
