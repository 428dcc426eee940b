"""How much memory this process holds, and how to give it back to the system."""

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

M_MMAP_THRESHOLD = -3  # of malloc.h
LARGE_BYTES = 1 << 20
# Whoever has set this himself knows better.
OWN_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def keep_large_blocks_apart(environment: Mapping[str, str]) -> bool:
    """Let the C library give each large block pages of its own, which go back when it is freed.

    By itself it does so for ever fewer blocks: once one of 10 MB was freed, the next goes between
    the small ones of its thread, and what lies beside it keeps its pages from the system. After
    some reloads a server held a tenth more. Returns whether it is so now; glibc alone can.
    """
    if sys.platform != "linux" or any(name in environment for name in OWN_SETTINGS):
        return False
    choose = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return choose is not None and bool(choose(M_MMAP_THRESHOLD, LARGE_BYTES))


def use_one_allocator(environment: Mapping[str, str]) -> None:
    """Let Arrow take its memory from the C library: its own allocator keeps much of what is freed.

    At 100,000 items that was 16 MB of 220.
    """
    if "ARROW_DEFAULT_MEMORY_POOL" not in environment:
        pa.set_memory_pool(pa.system_memory_pool())


def give_back() -> bool:
    """Return freed memory to the system; say whether the C library had any to return.

    Without it the C library keeps what a bundle has taken in pieces between other things: after a
    few reloads a process would hold the memory of several bundles, and an export of 12,000 items
    keeps 150 MiB beside 1 GiB in use. Takes about a millisecond.
    """
    pa.default_memory_pool().release_unused()
    if sys.platform != "linux":
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    return trim is not None and bool(trim(0))
