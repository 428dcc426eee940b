"""Freed memory stays in the process: the next step's pages are not cleared anew."""

import subprocess
import sys

import pytest

# Page faults of allocating and freeing 64 MiB twelve times, after `keep_freed_memory` or not.
FAULTS = """
import ctypes, resource, sys
from mmsr.training.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(12):
    block = libc.malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_blocks_are_used_again_without_new_pages() -> None:
    faults = {
        name: int(subprocess.check_output([sys.executable, "-c", FAULTS, name]))
        for name in ("kept", "given back")
    }
    assert faults["kept"] < faults["given back"] / 10
