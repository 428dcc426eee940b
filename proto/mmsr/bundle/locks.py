"""Locks on files: who works on a folder, who has a bundle open. Knows no bundles.

Always on a regular file, never on a folder: over NFS a lock on a folder holds on one machine only,
one on a file holds for all. The kernel lets go of a lock when its process ends, however it ends.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the only lock on `path`, which is made if it is not there; wait for it."""
    with path.open("a") as file:
        flock(file, LOCK_EX)
        yield


@contextmanager
def exclusive_at_once(path: Path) -> Iterator[None]:
    """Hold the only lock on the file `path`; `BlockingIOError` if somebody else has one."""
    with path.open("rb+") as file:
        flock(file, LOCK_EX | LOCK_NB)
        yield


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Hold one of many locks on the file `path`; wait while somebody has the only one."""
    with path.open("rb") as file:
        flock(file, LOCK_SH)
        yield


def is_locked(path: Path) -> bool:
    """Tell whether another holder has a lock on the file `path`; no, if there is no file."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
