"""Features kept under the SHA-256 of what they were made from.

    <folder>/shard-000000.npy      records of key and feature; written once, never changed

One folder holds one encoder's answers. A shard is either whole or not there, so a process that
is killed loses at most the records since the last shard. Knows nothing of images or texts.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmsr.bundle.files import atomic_path
from mmsr.bundle.tables import UNREADABLE, read_only, save_table

SHARD_RECORDS = 256
SHARD_SECONDS = 20.0  # a shard is written when it is full or this old

# U distinct keys, B records, D feature width. Keys are numpy's S32: 32 bytes, compared as such.
Keys = npt.NDArray[np.bytes_]
NO_KEY = b""


class FeatureCache:
    """Opens the folder; one process at a time may write to it."""

    def __init__(self, folder: Path, dim: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self.dim = dim
        self._dtype = np.dtype([("key", "S32"), ("feature", "<f4", (dim,))])
        self._clock = clock
        self._records = np.zeros(SHARD_RECORDS, self._dtype)
        self._count = 0  # of self._records, not yet written
        self._oldest_s = 0.0

    def shards(self) -> Iterator[npt.NDArray[Any]]:
        """Yield the shards' records; a damaged shard is removed, its contents count as unknown."""
        for path in self._paths():
            records = self._open(path)
            if records is not None:
                yield records

    def keys(self) -> Keys:
        """Return every key on disk, sorted, [U]."""
        found = [np.array(records["key"]) for records in self.shards()]
        return np.unique(np.concatenate(found)) if found else np.zeros(0, "S32")

    def add(self, keys: Sequence[bytes], features_BD: npt.NDArray[np.float32]) -> None:
        """Keep features; a shard is written whenever one is full or old enough."""
        for key, feature_D in zip(keys, features_BD, strict=True):
            if self._count == 0:
                self._oldest_s = self._clock()
            self._records[self._count] = (key, feature_D)
            self._count += 1
            if self._count == SHARD_RECORDS:
                self.flush()
        if self._count and self._clock() - self._oldest_s >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is held, if anything."""
        if not self._count:
            return
        paths = self._paths()
        number = int(paths[-1].stem.partition("-")[2]) + 1 if paths else 0
        _write(self.folder / f"shard-{number:06d}.npy", self._records[: self._count])
        self._count = 0

    def keep_only(self, sorted_keys: Keys) -> None:
        """Remove the records under other keys; a shard's other links keep what it was."""
        for path in self._paths():
            records = self._open(path)
            if records is None:
                continue
            kept = contains(sorted_keys, records["key"])
            if not kept.any():
                path.unlink()
            elif not kept.all():
                _write(path, records[kept])

    def _open(self, path: Path) -> npt.NDArray[Any] | None:
        """Map a shard; a damaged one is removed, and None."""
        try:
            records = read_only(path)
        except UNREADABLE:
            path.unlink()
            return None
        if records.dtype == self._dtype and records.ndim == 1:
            return records
        path.unlink()
        return None

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("shard-*.npy"))


def _write(path: Path, records: npt.NDArray[Any]) -> None:
    with atomic_path(path) as temporary:
        save_table(temporary, records)


def contains(sorted_keys: Keys, keys: Keys) -> npt.NDArray[np.bool_]:
    """Tell for each of `keys` whether it is in `sorted_keys`."""
    if not len(sorted_keys):
        return np.zeros(len(keys), np.bool_)
    positions = np.searchsorted(sorted_keys, keys).clip(max=len(sorted_keys) - 1)
    return np.asarray(sorted_keys[positions] == keys)
