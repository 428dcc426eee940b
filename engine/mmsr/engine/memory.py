"""How much memory this process holds, and how to give it back to the system."""

import ctypes
import os
import sys
from pathlib import Path

import pyarrow as pa


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Return freed memory to the system.

    Without it the C library keeps what a bundle has taken in pieces between other things: after a
    few reloads a process would hold the memory of several bundles.
    """
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
