"""Training windows and their batches: which positions are read in which step.

The order is a function of seed and epoch alone, so that a resumed run goes on as if never stopped.
"""

# B batch, L history length, K windows

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsr.training.split import Split

POOL_BATCHES = 50  # batches that are sorted by length together, so that each pads little


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Stretches of the training parts: inputs are [start, end - 1), targets [start + 1, end)."""

    items_T: npt.NDArray[np.int32]
    start_K: npt.NDArray[np.int64]
    end_K: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.start_K)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Right-padded with 0; a target of 0 means that there is none."""

    history_BL: npt.NDArray[np.int64]
    target_BL: npt.NDArray[np.int64]


def training_windows(split: Split, max_length: int) -> Windows:
    """Cut every user's training part into windows of at most max_length inputs.

    They are cut from the end, so that the newest window is whole; each position is a target once.
    """
    first_U, last_U = split.offsets[:-1], split.train_end_U
    pieces_U = np.maximum(-(-(last_U - first_U - 1) // max_length), 0)
    user_K = np.repeat(np.arange(split.users), pieces_U)
    # How many windows lie after this one, of the same user.
    after_K = np.arange(len(user_K)) - np.repeat(np.cumsum(pieces_U) - pieces_U, pieces_U)
    end_K = last_U[user_K] - after_K * max_length
    start_K = np.maximum(end_K - max_length - 1, first_U[user_K])
    return Windows(items_T=split.items_T, start_K=start_K, end_K=end_K)


def batch_count(windows: Windows, batch_size: int) -> int:
    """Return the number of steps of one epoch."""
    return -(-len(windows) // batch_size)


def epoch_batches(windows: Windows, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
    """Yield one epoch's batches; windows of similar length go together."""
    random = np.random.default_rng([seed, epoch])
    order_K = random.permutation(len(windows))
    batches = []
    for begin in range(0, len(order_K), POOL_BATCHES * batch_size):
        pool = order_K[begin : begin + POOL_BATCHES * batch_size]
        pool = pool[np.argsort((windows.end_K - windows.start_K)[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    for index in random.permutation(len(batches)):
        yield gather_windows(windows, batches[index])


def gather_windows(windows: Windows, chosen_B: npt.NDArray[np.int64]) -> Batch:
    """Read some windows into padded arrays."""
    start_B1 = windows.start_K[chosen_B][:, None]
    inputs_B1 = windows.end_K[chosen_B][:, None] - start_B1 - 1
    steps_L = np.arange(int(inputs_B1.max()))
    real_BL = steps_L < inputs_B1
    at_BL = np.where(real_BL, start_B1 + steps_L, 0)
    return Batch(
        history_BL=np.where(real_BL, windows.items_T[at_BL], 0).astype(np.int64),
        target_BL=np.where(real_BL, windows.items_T[at_BL + real_BL], 0).astype(np.int64),
    )


def pad_histories(
    histories: list[npt.NDArray[np.int32]], max_length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the newest max_length rows of each history [B, L], right-padded, and lengths [B]."""
    newest = [h[-max_length:] for h in histories]
    length_B = np.array([len(h) for h in newest], dtype=np.int64)
    history_BL = np.zeros((len(newest), max(1, int(length_B.max()))), dtype=np.int64)
    for row, history in zip(history_BL, newest, strict=True):
        row[: len(history)] = history
    return history_BL, length_B
