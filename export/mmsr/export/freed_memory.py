"""Gives memory that was freed back to the kernel. Knows nothing of exports."""

import ctypes
import sys


def give_back() -> bool:
    """Let go of what the C library keeps of freed blocks; return whether there was any.

    glibc keeps freed blocks of up to 32 MiB for the next ones. What comes next in an export wants
    blocks of other sizes: measured at 12,000 items, 150 MiB were kept beside 1 GiB in use. Takes
    about a millisecond; other C libraries have no such call.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # musl has none
        return False
    return bool(trim(0))
