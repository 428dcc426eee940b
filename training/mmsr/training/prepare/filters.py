"""Order, duplicates and k-core over all interactions. Pure arrays: knows no ids and no files."""

# T interactions

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Log:
    """Interactions: code of the user, row of the item (from 1), seconds, row in the file."""

    user_T: npt.NDArray[np.int32]
    item_T: npt.NDArray[np.int32]
    time_T: npt.NDArray[np.float64]
    row_T: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.user_T)

    def take(self, index: npt.NDArray[np.int64] | Mask) -> "Log":
        """Return the chosen interactions."""
        return Log(
            user_T=self.user_T[index],
            item_T=self.item_T[index],
            time_T=self.time_T[index],
            row_T=self.row_T[index],
        )


def by_user_and_time(log: Log) -> Log:
    """Return the log user by user, oldest first; equal times keep the order of the file."""
    return log.take(np.lexsort((log.time_T, log.user_T)))


def repeats(log: Log) -> Mask:
    """Return [T]: the same user, item and time stand earlier in the file.

    The log must be in the order of `by_user_and_time`.
    """
    repeated_T = np.zeros(len(log), dtype=bool)
    if len(log) < 2:
        return repeated_T
    same_T = (log.user_T[1:] == log.user_T[:-1]) & (log.time_T[1:] == log.time_T[:-1])
    moment_T = np.concatenate([[0], np.cumsum(~same_T)])  # numbers each (user, time)
    crowded = np.flatnonzero(np.append(same_T, False) | np.insert(same_T, 0, False))
    order = crowded[np.lexsort((log.item_T[crowded], moment_T[crowded]))]  # stable: file order
    again = (log.item_T[order][1:] == log.item_T[order][:-1]) & (
        moment_T[order][1:] == moment_T[order][:-1]
    )
    repeated_T[order[1:][again]] = True
    return repeated_T


def k_core(log: Log, k: int) -> tuple[Mask, Mask]:
    """Return [T]: removed for its user, and [T]: removed for its item.

    Afterwards every user and every item that is left has at least `k` interactions. Rounds
    go on until one removes nothing; an interaction is listed under what removed it first.
    """
    poor_user_T = np.zeros(len(log), dtype=bool)
    poor_item_T = np.zeros(len(log), dtype=bool)
    left = np.arange(len(log))
    while len(left):
        user_bad = np.bincount(log.user_T[left])[log.user_T[left]] < k
        item_bad = np.bincount(log.item_T[left])[log.item_T[left]] < k
        if not (user_bad | item_bad).any():
            break
        poor_user_T[left[user_bad]] = True
        poor_item_T[left[item_bad & ~user_bad]] = True
        left = left[~(user_bad | item_bad)]
    return poor_user_T, poor_item_T
