"""Latencies as HdrHistograms: three digits from 1 us to an hour; the V2 format in base64.

The format that other tools read (HdrHistogram, wrk2, jHiccup). Knows nothing of runs.
"""

# R requests, V different values

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram

Values = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

LOWEST_US, HIGHEST_US, DIGITS = 1, 3_600_000_000, 3
EMPTY = ""


def new_histogram() -> HdrHistogram:
    """Return an empty histogram of microseconds."""
    return HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)


def encode(latency_ms_R: Values) -> str:
    """Return the latencies as one histogram in base64; no latency: an empty text."""
    if not len(latency_ms_R):
        return EMPTY
    us_R = np.clip(np.rint(latency_ms_R * 1e3), LOWEST_US, HIGHEST_US).astype(np.int64)
    histogram = new_histogram()
    values, counts = np.unique(us_R, return_counts=True)
    for us, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(us, count)
    return str(histogram.encode().decode("ascii"))


def merge(encoded: Iterable[str]) -> str:
    """Return the sum of histograms, encoded again."""
    whole = new_histogram()
    for text in encoded:
        if text:
            whole.decode_and_add(text)
    return str(whole.encode().decode("ascii")) if whole.get_total_count() else EMPTY


def bins(encoded: str) -> tuple[Values, Counts]:
    """Return the values [V], in ms, ascending, that a histogram counted, and how often each [V]."""
    if not encoded:
        return np.empty(0), np.empty(0, np.int64)
    histogram = HdrHistogram.decode(encoded)
    counts = np.frombuffer(histogram.counts, np.int64)
    places_V = np.flatnonzero(counts)
    values_V = [_middle_us(histogram, place) / 1e3 for place in places_V.tolist()]
    return np.array(values_V), counts[places_V]


def _middle_us(histogram: HdrHistogram, place: int) -> float:
    """Return the middle of the values that fall into one count."""
    lowest = histogram.get_value_from_index(place)
    return float(lowest + histogram.get_highest_equivalent_value(lowest)) / 2
