"""Asks the C library to keep freed memory for the next step. Knows nothing of training."""

import ctypes
import sys

# glibc's mallopt(3).
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
INT_MAX = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let large blocks stay in the process between steps; return whether the C library agreed.

    By default glibc gives each large tensor back to the kernel, which clears the pages anew at the
    next step. Measured on a training step on the CPU (128 x 50 positions, 3,416 items): system time
    4.1-4.8 s of 17-18 s without, 1.1-1.4 s of 13-15 s with it. The peak stays, as torch's own GPU
    allocator has it too.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has none
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, INT_MAX))
