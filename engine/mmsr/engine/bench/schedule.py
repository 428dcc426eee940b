"""How many requests per second are meant, second by second. Pure numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# A arrivals, S segments

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of time over which the rate goes evenly from one value to another."""

    seconds: float
    from_per_s: float
    to_per_s: float

    @property
    def expected(self) -> float:
        """Return how many requests are meant in it, on average."""
        return self.seconds * (self.from_per_s + self.to_per_s) / 2


def total_s(segments: Sequence[Segment]) -> float:
    """Return how long the segments last together."""
    return sum(segment.seconds for segment in segments)


def expected_requests(segments: Sequence[Segment]) -> float:
    """Return how many requests are meant in all, on average."""
    return sum(segment.expected for segment in segments)


def times_of(segments: Sequence[Segment], counts_A: Floats) -> Floats:
    """Return when the expected number of requests so far reaches each of `counts_A`.

    The inverse of the cumulative rate. Poisson arrivals of any rate are a Poisson process of rate 1
    in that number (Cinlar, Introduction to Stochastic Processes, 1975, ch. 4.7).
    """
    times_A = np.empty_like(counts_A)
    began_s, before = 0.0, 0.0
    for segment in segments:
        inside_A = (counts_A >= before) & (counts_A <= before + segment.expected)
        times_A[inside_A] = began_s + _into(segment, counts_A[inside_A] - before)
        began_s += segment.seconds
        before += segment.expected
    return times_A


def _into(segment: Segment, counts_A: Floats) -> Floats:
    """Solve `counts = from t + slope t^2 / 2` for the seconds t into the segment."""
    slope = (segment.to_per_s - segment.from_per_s) / segment.seconds
    root_A = np.sqrt(np.maximum(0.0, segment.from_per_s**2 + 2 * slope * counts_A))
    # This form of the solution does not lose digits where the slope is small or zero.
    return np.minimum(
        segment.seconds, 2 * counts_A / np.maximum(segment.from_per_s + root_A, 1e-12)
    )


def ramp(from_per_s: float, to_per_s: float, seconds: float) -> tuple[Segment, ...]:
    """Return one even rise (or fall)."""
    return (Segment(seconds=seconds, from_per_s=from_per_s, to_per_s=to_per_s),)


def steps(rates_per_s: Sequence[float], seconds: float) -> tuple[Segment, ...]:
    """Return equally long steps of constant rate, `seconds` in all."""
    each_s = seconds / len(rates_per_s)
    return tuple(Segment(seconds=each_s, from_per_s=r, to_per_s=r) for r in rates_per_s)
