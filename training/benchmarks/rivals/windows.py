"""Prepared data as the rivals get them: exactly the windows that MMSR trains on.

Each window is a user of its own to them, so that everybody trains on the same positions: RecTools
would keep only the newest window of a user, RePlay would cut them in its own way.
"""

# K windows, T interactions

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmsr.training.batches import Windows, training_windows
from mmsr.training.dataset import Dataset
from mmsr.training.split import leave_one_out


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    windows: int
    targets: int
    items: int


def export_windows(dataset: Dataset, max_length: int, to: Path) -> Exported:
    """Write the training windows of a leave-one-out split: items (rows, from 1) and offsets."""
    windows = training_windows(leave_one_out(dataset), max_length)
    length_K = windows.end_K - windows.start_K
    offsets = np.concatenate([[0], np.cumsum(length_K)])
    np.savez(to, items=_items(windows, offsets), offsets=offsets, catalogue=dataset.info.items)
    return Exported(
        windows=len(windows), targets=int((length_K - 1).sum()), items=dataset.info.items
    )


def _items(windows: Windows, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Return the windows one after another [T]; neighbours of a user share an interaction."""
    length_K = np.diff(offsets)
    step_T = np.arange(offsets[-1]) - np.repeat(offsets[:-1], length_K)
    items_T: npt.NDArray[np.int32] = windows.items_T[np.repeat(windows.start_K, length_K) + step_T]
    return items_T
