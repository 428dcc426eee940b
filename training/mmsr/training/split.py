"""Which interactions are trained on, validated on and tested on."""

# U users, T interactions

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mmsr.training.dataset import DataError, Dataset

Part = Literal["validation", "test"]
MIN_EVALUATED = 3  # interactions: one to train on, one to validate, one to test


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """Per user the last interaction is for the test, the one before for validation.

    Users with fewer than three interactions are trained on whole and never evaluated.
    """

    items_T: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]  # [U + 1]

    @property
    def users(self) -> int:
        """Return the number of users."""
        return len(self.offsets) - 1

    def evaluated(self) -> npt.NDArray[np.int64]:
        """Return the indices of the users that take part in validation and test."""
        return np.flatnonzero(np.diff(self.offsets) >= MIN_EVALUATED)

    def train_end(self) -> npt.NDArray[np.int64]:
        """Return [U], where each user's training part ends in `items_T`."""
        held_out = np.where(np.diff(self.offsets) >= MIN_EVALUATED, 2, 0)
        ends: npt.NDArray[np.int64] = self.offsets[1:] - held_out
        return ends

    def history(self, user: int, part: Part) -> npt.NDArray[np.int32]:
        """Return what the model may read of a user before the held-out item of `part`."""
        end = self.offsets[user + 1] - (2 if part == "validation" else 1)
        return self.items_T[self.offsets[user] : end]

    def target(self, user: int, part: Part) -> int:
        """Return the held-out item row."""
        return int(self.items_T[self.offsets[user + 1] - (2 if part == "validation" else 1)])

    def train_counts(self, items: int) -> npt.NDArray[np.int64]:
        """Return [N + 1], how often each item row stands in the training part."""
        keep = np.ones(len(self.items_T), dtype=bool)
        held_out = self.evaluated()
        keep[self.offsets[held_out + 1] - 1] = False
        keep[self.offsets[held_out + 1] - 2] = False
        counts: npt.NDArray[np.int64] = np.bincount(self.items_T[keep], minlength=items + 1)
        return counts


def leave_one_out(dataset: Dataset) -> LeaveOneOut:
    """Split prepared data; `DataError` if nobody can be evaluated."""
    split = LeaveOneOut(items_T=dataset.items_T, offsets=np.asarray(dataset.offsets))
    if len(split.evaluated()) == 0:
        raise DataError(
            f"{dataset.folder}: no user has {MIN_EVALUATED} interactions or more; "
            "leave-one-out needs one to train on, one to validate and one to test"
        )
    return split
