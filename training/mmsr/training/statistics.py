"""Means, deviations and paired bootstrap intervals. Knows nothing of models or rankings."""

# U users, V of them with a difference, R resamples, S seeds

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
LEVEL = 0.95
CHUNK_DRAWS = 1 << 21  # values drawn at a time: 16 MiB

Floats = npt.NDArray[np.float64]


def paired_interval(
    a_U: Floats,
    b_U: Floats,
    seed: int = 0,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Return the bootstrap interval of mean(a - b), the same users in both.

    The percentile interval (Efron and Tibshirani 1993, section 13.3) of resampled users. Most users
    have no difference, as both miss or both hit alike: of them nothing but the number is drawn.
    """
    if a_U.shape != b_U.shape or a_U.ndim != 1 or len(a_U) == 0:
        raise ValueError(f"paired values of shapes {a_U.shape} and {b_U.shape}; expected one [U]")
    difference_U = a_U - b_U
    other_V = difference_U[difference_U != 0]
    if len(other_V) == 0:
        return 0.0, 0.0
    random = np.random.default_rng(seed)
    count_R = random.binomial(len(a_U), len(other_V) / len(a_U), resamples)
    chunk = max(1, CHUNK_DRAWS // len(other_V))
    sums = [
        _sums_of_draws(other_V, count_R[begin : begin + chunk], random)
        for begin in range(0, resamples, chunk)
    ]
    means_R = np.concatenate(sums) / len(a_U)
    low, high = np.quantile(means_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(a_U: Floats, b_U: Floats, seed: int = 0) -> dict[str, float]:
    """Return the `mean` of a - b and its 95 % interval, `low` to `high`."""
    low, high = paired_interval(a_U, b_U, seed)
    return {"mean": float((a_U - b_U).mean()), "low": low, "high": high}


def signed_interval(difference: Mapping[str, float]) -> str:
    """Return what `paired_difference` found as it is written: "+0.0012 [+0.0003, +0.0021]"."""
    return "{mean:+.4f} [{low:+.4f}, {high:+.4f}]".format(**difference)


def _sums_of_draws(
    value_V: Floats, count_R: npt.NDArray[np.int64], random: np.random.Generator
) -> Floats:
    """Return [R]: the sum of count_R[r] values, drawn with replacement."""
    ends_R = np.cumsum(count_R)
    drawn = value_V[random.integers(0, len(value_V), int(ends_R[-1]), dtype=np.int32)]
    running = np.concatenate([[0.0], np.cumsum(drawn)])
    sums_R: Floats = running[ends_R] - running[ends_R - count_R]
    return sums_R


def average_over_seeds(values_SU: Sequence[Floats]) -> Floats:
    """Return each user's mean over the seeds [U], so that seeds count as one system."""
    mean_U: Floats = np.mean(np.stack(values_SU), axis=0)
    return mean_U


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation; of one value the deviation is None."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), deviation
