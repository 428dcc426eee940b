"""Percentiles that are only given when there are samples enough for them. Pure numbers."""

import math

import numpy as np
import numpy.typing as npt

# R requests

Values = npt.NDArray[np.float64]


PERCENTILES = (0.5, 0.9, 0.99)
# Queries that bound a percentile with 99 % confidence within a twentieth of what lies beyond it:
# MLPerf Inference rules, "Server" (LoadGen). They are asked of a headline only.
MLPERF_SAMPLES = {0.9: 24_576, 0.99: 270_336}


def needed_samples(p: float, *, headline: bool = False) -> int:
    """Return how many samples percentile `p` (0 to 1) needs: ten of them lie beyond it.

    Of a headline: as many as MLPerf asks for.
    """
    ten_beyond = math.ceil(round(10 / (1 - p), 6))
    return MLPERF_SAMPLES.get(p, ten_beyond) if headline else ten_beyond


def quantile(values_R: Values, p: float) -> float:
    """Return the smallest value that at least a share `p` of the values do not exceed."""
    return float(np.quantile(values_R, p, method="inverted_cdf"))


def percentile(
    values_R: Values, p: float, failed: int = 0, *, headline: bool = False
) -> float | None:
    """Return `quantile`, or None where there are fewer than `needed_samples(p)` values.

    `failed` requests count as slower than every value: None too where p falls among them.
    """
    if len(values_R) + failed < needed_samples(p, headline=headline):
        return None
    with_failed_R = np.concatenate([values_R, np.full(failed, np.inf)]) if failed else values_R
    value = quantile(with_failed_R, p)
    return value if math.isfinite(value) else None


def percentile_name(p: float) -> str:
    """Return "p99" for 0.99."""
    return f"p{round(p * 100)}"


def percentiles(
    values_R: Values, failed: int = 0, *, headline: bool = False
) -> dict[str, float | None]:
    """Return p50, p90 and p99, each None where `percentile` is."""
    return {
        percentile_name(p): percentile(values_R, p, failed, headline=headline) for p in PERCENTILES
    }


VOID_MEDIAN_LAG_SHARE = 0.10  # of the median latency
VOID_P99_LAG_SHARE = 0.25  # of the p99 latency
VOID_P99_LAG_FLOOR_MS = 2.0


def void_reason(latency_ms_R: Values, lag_ms_R: Values) -> str | None:
    """Say why the generator was too late for the run to count, or None if it was not.

    Lag is the actual minus the intended send time. The quantiles here are taken from however
    many samples there are: a run must not escape the rule by being short.
    """
    if not len(latency_ms_R) or not len(lag_ms_R):
        return None
    median_ms, p99_ms = quantile(lag_ms_R, 0.5), quantile(lag_ms_R, 0.99)
    median_limit_ms = VOID_MEDIAN_LAG_SHARE * quantile(latency_ms_R, 0.5)
    p99_limit_ms = max(VOID_P99_LAG_FLOOR_MS, VOID_P99_LAG_SHARE * quantile(latency_ms_R, 0.99))
    if median_ms > median_limit_ms:
        return _too_late("median", median_ms, median_limit_ms, "10 % of the median latency")
    if p99_ms > p99_limit_ms:
        return _too_late("p99", p99_ms, p99_limit_ms, "the larger of 2 ms and 25 % of p99")
    return None


def _too_late(which: str, lag_ms: float, limit_ms: float, rule: str) -> str:
    return (
        f"the generator itself was late: {which} lag {lag_ms:.2f} ms, allowed {limit_ms:.2f} ms "
        f"({rule})"
    )
