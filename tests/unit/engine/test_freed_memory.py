"""Memory that was freed goes back to the kernel."""

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest

from mmsr.engine.memory import give_back

BLOCKS, BLOCK_BYTES = 500, 100_000  # below what is mapped by itself: these stay in the process


def own_memory_bytes() -> int:
    [line] = [n for n in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in n]
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_blocks_that_were_freed_below_one_in_use_are_given_back() -> None:
    blocks = [np.ones(BLOCK_BYTES, np.uint8) for _ in range(BLOCKS)]
    last = blocks.pop()  # the heap cannot shrink from its end
    del blocks
    before = own_memory_bytes()
    assert give_back()
    assert before - own_memory_bytes() > BLOCKS * BLOCK_BYTES / 2
    assert last.all()


def test_where_the_c_library_has_no_such_call_nothing_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not give_back()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not give_back()
