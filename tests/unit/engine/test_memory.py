"""What the C library does with large blocks, in a process of its own: it is set for good."""

import subprocess
import sys

import pyarrow as pa
import pytest

from mmsr.engine.memory import OWN_SETTINGS, keep_large_blocks_apart, use_one_allocator

PATIENCE_S = 60.0
# Blocks that have pages of their own, before and while one of 2 MB is there; by then one of 30 MB
# was freed, after which the library would put the next one between the small ones.
PROGRAM = """
import ctypes, os
from mmsr.engine.memory import keep_large_blocks_apart

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Info
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
kept = keep_large_blocks_apart({} if SET else {"GLIBC_TUNABLES": ""})
library.free(library.malloc(30 << 20))
before = library.mallinfo2().hblks
block = library.malloc(2 << 20)
print(kept, library.mallinfo2().hblks - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(__import__("ctypes").CDLL(None), "mallinfo2"),
    reason="glibc alone has mallinfo2",
)
@pytest.mark.parametrize(("wanted", "said"), [(True, "True 1"), (False, "False 0")])
def test_a_large_block_has_pages_of_its_own_whatever_was_freed(wanted: bool, said: str) -> None:
    program = f"SET = {wanted}\n{PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.stdout.strip(), done.stderr) == (said, "")


def test_arrow_shares_the_c_librarys_memory_unless_it_is_told_otherwise() -> None:
    pool = pa.default_memory_pool()
    try:
        use_one_allocator({"ARROW_DEFAULT_MEMORY_POOL": pool.backend_name})
        assert pa.default_memory_pool().backend_name == pool.backend_name
        use_one_allocator({})
        assert pa.default_memory_pool().backend_name == "system"
    finally:
        pa.set_memory_pool(pool)


@pytest.mark.parametrize("name", OWN_SETTINGS)
def test_what_the_operator_has_set_is_left(name: str) -> None:
    assert not keep_large_blocks_apart({name: "1"})
