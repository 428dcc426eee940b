"""Whether a series of measurements goes anywhere: slope with interval, growth, flatness. Pure."""

# T measurements, in equal steps of time

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

Z_95 = 1.959964
FEWEST = 5  # measurements, for a slope to have an interval
MOST_ALIKE = 0.8  # correlation of neighbours that is reckoned with
ENDS = 3  # measurements that say where a series begins and where it ends


@dataclass(frozen=True, kw_only=True)
class Slope:
    """By how much a series rises in one step, and the 95 % interval of that."""

    per_step: float
    low: float
    high: float

    @property
    def is_a_trend(self) -> bool:
        """Tell whether the interval leaves 0 out."""
        return not self.low <= 0.0 <= self.high


NO_SLOPE = Slope(per_step=0.0, low=-math.inf, high=math.inf)


def slope(values: Sequence[float]) -> Slope:
    """Return the median of the slopes between all pairs, with its interval (Theil 1950, Sen 1968).

    A few wild minutes of a busy machine do not move it. Neighbours that are alike tell less than
    as many that are not: the interval is as much wider (Hamed and Rao 1998, of the first lag).
    """
    values_T = np.asarray(values, np.float64)
    steps = len(values_T)
    if steps < FEWEST:
        return NO_SLOPE
    first, second = np.triu_indices(steps, 1)
    slopes_P = np.sort((values_T[second] - values_T[first]) / (second - first))
    per_step = float(np.median(slopes_P))
    alike = _neighbours_alike(values_T - per_step * np.arange(steps))
    variance = steps * (steps - 1) * (2 * steps + 5) / 18 * (1 + alike) / (1 - alike)
    reach = Z_95 * math.sqrt(variance) / 2
    middle = (len(slopes_P) - 1) / 2
    low, high = math.floor(middle - reach), math.ceil(middle + reach)
    return Slope(
        per_step=per_step,
        low=float(slopes_P[low]) if low >= 0 else -math.inf,
        high=float(slopes_P[high]) if high < len(slopes_P) else math.inf,
    )


def _neighbours_alike(rest_T: Values) -> float:
    """Return the correlation of what is left with its neighbours, 0 to `MOST_ALIKE`."""
    centred_T = rest_T - rest_T.mean()
    whole = float(centred_T @ centred_T)
    if whole == 0.0:
        return 0.0
    return min(MOST_ALIKE, max(0.0, float(centred_T[1:] @ centred_T[:-1]) / whole))


def growth(values: Sequence[float]) -> float:
    """Return by which share a series has grown from its beginning to its end.

    The larger of two: along its slope, which a single wild end does not move, and between the
    medians of its ends, which a late jump does move.
    """
    values_T = np.asarray(values, np.float64)
    begin, end = np.median(values_T[:ENDS]), np.median(values_T[-ENDS:])
    along = slope(values).per_step * (len(values_T) - 1)
    return float(max(end - begin, along) / begin)


def rises(values: Sequence[float]) -> float:
    """Return by how much the second half of a series lies above its first half, at their lowest.

    0 or less: flat. For counts that come back to the same number whenever nothing is under way.
    """
    middle = (len(values) + 1) // 2
    return min(values[middle:], default=0) - min(values[:middle], default=0)
