"""Takes out of the cache what no item has now, for a user who asks for it.

Without that the cache only grows: an answer of every encoder to every picture and text ever seen.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmsr.training.features.modality import Encoded, Stage


def may_prune(images: Stage) -> bool:
    """Say whether what is unused is known: a folder of pictures may only be away for now."""
    return images.result is not None or not images.rejected


def prune_cache(folder: Path, used: Sequence[Encoded]) -> int:
    """Keep what the items use of these encoders' answers and of no other; return bytes freed."""
    before = _size_bytes(folder)
    kept = {found.cache.folder for found in used}
    for path in folder.iterdir():
        if path.is_dir() and path not in kept:
            shutil.rmtree(path)
    for found in used:
        found.cache.keep_only(np.unique(found.keys_N))
    return before - _size_bytes(folder)


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/shard-*.npy"))
