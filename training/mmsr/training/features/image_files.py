"""The picture files that items name, and what is known of each without reading it.

An index remembers the content hash of every file seen, for as long as its size and time of
change stay the same. Knows nothing of what is in a picture.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from mmsr.bundle.files import atomic_path
from mmsr.bundle.tables import UNREADABLE, read_only, save_table
from mmsr.training.dataset import Dataset
from mmsr.training.features.cache import NO_KEY, Keys, contains

MAX_FILE_BYTES = 100_000_000  # a picture file larger than this is not read

# N items, F files
_INDEX_DTYPE = np.dtype([("name", "S16"), ("bytes", "<i8"), ("mtime_ns", "<i8"), ("key", "S32")])


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """The distinct files, in the order in which items name them first."""

    paths: list[str]
    file_N: npt.NDArray[np.int64]  # each item's file, -1 for none
    index_F: npt.NDArray[np.void]  # name, size, time and content of each; NO_KEY: not known yet
    problems: dict[int, str]  # why a file cannot be read

    @property
    def keys(self) -> Keys:
        """Return each file's content hash, [F]; what is written into it, `save_index` keeps."""
        return self.index_F["key"]

    def item_keys(self) -> Keys:
        """Return each item's content hash, NO_KEY where it has none, [N]."""
        keys = np.append(self.keys, np.array([NO_KEY], "S32"))  # -1 is the last
        return keys[self.file_N]

    def to_decode(self, cached: Keys) -> list[int]:
        """Return the files whose content is unknown, or known and not among `cached`.

        Of several files with the same known content, the first.
        """
        usable_F = np.ones(len(self.paths), np.bool_)
        usable_F[list(self.problems)] = False
        known_F = usable_F & (self.keys != NO_KEY)
        wanted = np.flatnonzero(known_F)[~contains(cached, self.keys[known_F])]
        firsts = wanted[np.unique(self.keys[wanted], return_index=True)[1]]
        unknown = np.flatnonzero(usable_F & ~known_F)
        return [int(file) for file in np.sort(np.concatenate([firsts, unknown]))]


def scan(dataset: Dataset, index_path: Path) -> ImageFiles:
    """Look at every file that an item names; reads none but the index."""
    column = dataset.item_table(["image"])["image"].combine_chunks().dictionary_encode()
    root = str(dataset.image_root)
    paths = [os.path.join(root, name) for name in column.dictionary.to_pylist()]
    index_F, problems = _stat_all(paths)
    _recall(index_F, index_path)
    return ImageFiles(
        paths=paths,
        file_N=pc.fill_null(column.indices, -1).to_numpy().astype(np.int64),
        index_F=index_F,
        problems=problems,
    )


def save_index(files: ImageFiles, path: Path) -> None:
    """Remember the content hashes found so far, atomically."""
    known = np.sort(files.index_F[files.keys != NO_KEY], order="name")
    with atomic_path(path) as temporary:
        save_table(temporary, known)


def _stat_all(paths: list[str]) -> tuple[npt.NDArray[np.void], dict[int, str]]:
    index_F = np.zeros(len(paths), _INDEX_DTYPE)
    problems: dict[int, str] = {}
    for file, path in enumerate(paths):
        try:
            found = os.stat(path)
        except (OSError, ValueError) as error:
            problems[file] = _reason(error)
            continue
        name = hashlib.blake2b(os.fsencode(path), digest_size=16).digest()
        index_F[file] = (name, found.st_size, found.st_mtime_ns, NO_KEY)
        if not stat.S_ISREG(found.st_mode):
            problems[file] = "not a regular file"
        elif found.st_size > MAX_FILE_BYTES:
            problems[file] = f"file of {found.st_size} bytes, at most {MAX_FILE_BYTES}"
    return index_F, problems


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "file not found"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _recall(index_F: npt.NDArray[np.void], path: Path) -> None:
    """Fill in the contents of files that are as they were when the index was written."""
    try:
        known = np.array(read_only(path))
    except UNREADABLE:
        return
    if known.dtype != _INDEX_DTYPE or known.ndim != 1 or not len(known):
        return
    at_F = np.searchsorted(known["name"], index_F["name"]).clip(max=len(known) - 1)
    same_F = np.ones(len(index_F), np.bool_)
    for column in ("name", "bytes", "mtime_ns"):
        same_F &= known[column][at_F] == index_F[column]
    index_F["key"][same_F] = known["key"][at_F][same_F]
