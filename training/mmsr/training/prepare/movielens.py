"""MovieLens as published (1M, 10M, 20M, 25M, 32M, latest) -> prepared data."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mmsr.training.prepare.blocks import Block, ZipMember
from mmsr.training.prepare.items import COLUMNS as ITEM_COLUMNS
from mmsr.training.prepare.ledger import open_ledger
from mmsr.training.prepare.movielens_files import (
    MOVIES,
    RATINGS,
    MovieLensFiles,
    open_raw,
)
from mmsr.training.prepare.picture_folder import Pictures
from mmsr.training.prepare.preparation import ImportSettings, Preparation
from mmsr.training.prepare.progress import Progress
from mmsr.training.prepare.ratings import RATING, at_least
from mmsr.training.prepare.report import Report

NO_GENRES = "(no genres listed)"
GENRE_SEPARATOR = "|"


def prepare_movielens(
    files: MovieLensFiles,
    images: Path | None,
    folder: Path,
    settings: ImportSettings,
    progress: Progress,
) -> Report:
    """Write prepared data of all rated movies into an empty folder.

    Raises `DataError` for a file that cannot be read or if nothing is left over.
    """
    with open_ledger(folder, Path(files.movies.name), Path(files.ratings.name)) as ledger:
        preparation = Preparation(folder, settings, ledger, progress)
        named = preparation.read_log(RatingsReader(files.ratings, settings.min_rating))
        return preparation.write_named(named, MoviesReader(files.movies), Pictures(folder=images))


class RatingsReader:
    """Who rated what and when."""

    list_separator: str | None = None

    def __init__(self, path: Path | ZipMember, min_rating: float | None) -> None:
        self.path = path
        self.raw = open_raw(path, RATINGS)
        self.min_rating = min_rating
        self.ignored = self.raw.ignored

    def blocks(self) -> Iterator[Block]:
        """Yield the ratings that are at least the wanted one."""
        for block in self.raw.blocks():
            columns = {
                "user_id": block.columns["userId"],
                "item_id": block.columns["movieId"],
                "timestamp": block.columns["timestamp"],
                RATING: block.columns["rating"],
            }
            yield at_least(replace(block, columns=columns), self.min_rating)
        self.ignored = self.raw.ignored


class MoviesReader:
    """Titles, with the year in brackets as published, and genres as categories."""

    list_separator: str | None = GENRE_SEPARATOR

    def __init__(self, path: Path | ZipMember) -> None:
        self.path = path
        self.raw = open_raw(path, MOVIES)
        self.ignored = self.raw.ignored

    def blocks(self) -> Iterator[Block]:
        """Yield all movies."""
        for block in self.raw.blocks():
            nothing = [None] * len(block.row_R)
            genres = [None if names == NO_GENRES else names for names in block.columns["genres"]]
            columns = {name: nothing for name in ITEM_COLUMNS.known} | {
                "item_id": block.columns["movieId"],
                "title": block.columns["title"],
                "categories": genres,
            }
            yield replace(block, columns=columns)
        self.ignored = self.raw.ignored
