"""When to kill, and whether what was killed is gone with all its children. Never sleeps."""

import os
import random
import select
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PATIENCE_S = 60.0


def spread(kills: int, choose: random.Random) -> Iterator[float]:
    """Yield parts of a length, without end: each of `kills` equal stretches is met in turn.

    In an order that jumps about, and at random within each stretch.
    """
    order = list(range(kills))
    while True:
        choose.shuffle(order)
        for place in order:
            yield (place + choose.random()) / kills


def children(pid: int) -> list[int]:
    """Return the processes that this one has started and that run."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended meanwhile
            found += map(int, task.read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """Return its children and theirs."""
    own = children(pid)
    return [*own, *(more for child in own if is_there(child) for more in children(child))]


def is_there(pid: int) -> bool:
    """Tell whether a process runs."""
    return Path(f"/proc/{pid}").exists()


def survivors(pids: list[int]) -> list[int]:
    """Return which of these do not end within `PATIENCE_S`, and end them."""
    deadline = time.monotonic() + PATIENCE_S
    found = []
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            left_s = max(0.0, deadline - time.monotonic())
            if not select.select([descriptor], [], [], left_s)[0]:
                found.append(pid)
                os.kill(pid, signal.SIGKILL)
        finally:
            os.close(descriptor)
    return found
