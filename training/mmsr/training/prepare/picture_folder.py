"""Finds the picture of an item in a folder: by the item's id, or by its link's last part."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from mmsr.training.dataset import DataError
from mmsr.training.prepare.blocks import Block, Reader

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp")


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Where pictures lie, and those that could not be had."""

    folder: Path | None = None  # None: there are none
    failed: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # reason, detail by item


class PictureFolder:
    """The names in a folder, read once; capitals make no difference."""

    def __init__(self, folder: Path) -> None:
        self.names = {name.lower(): name for name in sorted(os.listdir(folder))}

    def find(self, item_id: object, link: object) -> str | None:
        """Return the name of an item's picture, None if there is none."""
        wanted = [f"{item_id}{suffix}" for suffix in SUFFIXES]
        if isinstance(link, str):
            last = link_name(link)
            wanted += [last, unquote(last)]
        return next((self.names[n.lower()] for n in wanted if n.lower() in self.names), None)


class WithPictures:
    """A reader of items whose links become names in a folder."""

    def __init__(self, reader: Reader, pictures: Pictures) -> None:
        self.reader = reader
        self.pictures = pictures
        self.list_separator = reader.list_separator
        self.ignored: set[str] = set()

    def blocks(self) -> Iterator[Block]:
        """Yield the reader's blocks with names of files in column `image`."""
        folder = self.pictures.folder
        names = PictureFolder(folder) if folder else None
        failed = self.pictures.failed
        for block in self.reader.blocks():
            ids, links = block.values("item_id"), block.values("image")
            found = [names.find(*pair) if names else None for pair in zip(ids, links, strict=True)]
            notes = [
                (row, *failed[item])
                for row, item, name in zip(block.row_R.tolist(), ids, found, strict=True)
                if name is None and item in failed
            ]
            columns = block.columns | {"image": found}
            yield replace(block, columns=columns, notes=block.notes + notes)
        self.ignored = self.reader.ignored


def require_folder(folder: Path) -> None:
    """Raise `DataError` unless a folder of pictures is there."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; name the one that holds the images")


def link_name(link: str) -> str:
    """Return the last part of a link's path, as it stands there."""
    try:
        return PurePosixPath(urlsplit(link).path).name
    except ValueError:  # a bracket that opens no address
        return ""
