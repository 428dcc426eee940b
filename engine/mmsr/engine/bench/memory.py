"""How fast this machine's memory is, as numpy copies it: the ceiling of scoring a catalogue."""

import time

import numpy as np
import numpy.typing as npt

COPY_BYTES = 256 << 20  # more than any cache
ROUNDS = 5  # the fastest counts: whatever disturbs only slows

Array = npt.NDArray[np.float64]


def copy_rate_gb_per_s() -> float:
    """Return the bytes read and written per second by one thread's copy, in GB (10^9)."""
    source = np.ones(COPY_BYTES // 8)
    target = np.zeros_like(source)
    target[:] = 1.0  # touched, so that no page is handed out while it counts
    return 2 * COPY_BYTES / min(_copy_s(source, target) for _ in range(ROUNDS)) / 1e9


def _copy_s(source: Array, target: Array) -> float:
    began_s = time.perf_counter()
    np.copyto(target, source)
    return time.perf_counter() - began_s
