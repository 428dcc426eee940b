"""The split of a final run: nothing is held out of training."""

import numpy as np

from mmsr.training.dataset import Dataset
from mmsr.training.split import HeldOut, Split


def nothing_held_out(dataset: Dataset) -> Split:
    """Train on everything. There is no validation.

    The newest interaction of every user stands as the test's, and is trained on all the same: it is
    for probe sets, which compare two computations of one model, and worth nothing as a metric.
    """
    offsets = np.asarray(dataset.offsets)
    last_U = np.maximum(offsets[1:] - 1, 0)
    long_U = np.diff(offsets) >= 2
    newest_U = np.where(long_U, dataset.items_T[np.minimum(last_U, len(dataset.items_T) - 1)], 0)
    nobody_U = np.zeros(len(last_U), dtype=np.int32)
    return Split(
        items_T=dataset.items_T,
        offsets=offsets,
        train_end_U=offsets[1:],
        validation=HeldOut(target_U=nobody_U, history_end_U=offsets[1:]),
        test=HeldOut(target_U=newest_U.astype(np.int32), history_end_U=last_U),
    )
