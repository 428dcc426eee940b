"""How much of the catalogue is recommended, and how popular that is. Knows nothing of models."""

# E evaluated users, K recommended items, N items

import numpy as np
import numpy.typing as npt


def coverage(best_EK: npt.NDArray[np.int64], items: int) -> float:
    """Return the share of the items that are recommended to anybody; rows of 0 do not count."""
    recommended = np.bincount(best_EK.ravel(), minlength=items + 1)[1:] > 0
    return float(recommended.mean())


def popularity_percentiles(counts_N: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return [N + 1], the share of the items that are bought less; equals count half.

    The least popular item is near 0, the most popular near 1, the mean over all items 0.5.
    """
    ascending = np.sort(counts_N[1:])
    less_N = np.searchsorted(ascending, counts_N, side="left")
    not_more_N = np.searchsorted(ascending, counts_N, side="right")
    return (less_N + not_more_N) / (2 * len(ascending))


def mean_percentile(rows: npt.NDArray[np.integer], counts_N: npt.NDArray[np.int64]) -> float:
    """Return the mean popularity percentile of some rows of any shape; rows of 0 do not count."""
    return float(popularity_percentiles(counts_N)[rows[rows > 0]].mean())
