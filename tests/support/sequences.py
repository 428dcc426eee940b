"""Data sets of nothing but sequences, in memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmsr.training.dataset import DataInfo, Dataset


def dataset_of(
    items: Sequence[Sequence[int]],
    times: Sequence[Sequence[float]] | None = None,
    catalogue: int | None = None,
) -> Dataset:
    """Return the data set of users' item rows, oldest first; without times their own order."""
    times = times or [range(len(user)) for user in items]
    items_T = np.array([row for user in items for row in user], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(user) for user in items])]).astype(np.int64)
    info = DataInfo(
        name="sequences",
        items=catalogue or int(items_T.max(initial=1)),
        users=len(items),
        interactions=len(items_T),
        image_root="",
        categories=[],
        content_hash="sequences",
    )
    return Dataset(
        folder=Path("sequences"),
        info=info,
        items_T=items_T,
        times_T=np.array([at for user in times for at in user], dtype=np.float64),
        offsets=offsets,
    )
