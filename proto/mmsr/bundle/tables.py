"""Opens and writes `.npy` tables, of a bundle and others. Knows nothing of what is in them."""

import os
from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from mmsr.bundle.errors import BundleError, one_line

# What numpy raises for a file that is none of its own: its header is Python, parsed.
UNREADABLE = (OSError, ValueError, TypeError, OverflowError, EOFError, SyntaxError, TokenError)


def map_table(path: Path, shape: tuple[int, ...], dtype: str = "float32") -> npt.NDArray[Any]:
    """Map a table copy on write; `BundleError` unless it has this shape and type."""
    try:
        table = writable(path)
    except UNREADABLE as error:
        raise BundleError(
            f"{path} is unreadable ({one_line(error)}); export the model again"
        ) from None
    if table.shape != shape or table.dtype != np.dtype(dtype) or not table.flags.c_contiguous:
        raise BundleError(
            f"{path}: {table.dtype} {list(table.shape)}, the manifest says {dtype} {list(shape)}; "
            "export the model again"
        )
    return table


def read_only(path: Path) -> npt.NDArray[Any]:
    """Map a table to read it; `UNREADABLE` if it is none."""
    table: npt.NDArray[Any] = open_memmap(path, mode="r")
    return table


def writable(path: Path) -> npt.NDArray[Any]:
    """Map a table so that what is written into it stays in this process."""
    table: npt.NDArray[Any] = open_memmap(path, mode="c")
    return table


class _Written:
    """A file as numpy writes to what it takes for none: by `write`, which says why it fails.

    Into a file it writes past Python, and of a full disk it says "40 requested and 5 written".
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.write: Callable[[bytes], int] = file.write


def save_table(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a table; `OSError` with the system's reason."""
    with path.open("wb") as file:
        np.save(_Written(file), array, allow_pickle=False)


def create_table(path: Path, shape: tuple[int, ...]) -> "np.memmap[Any, np.dtype[np.float32]]":
    """Map a new float32 table of zeros, whose blocks are there already; `OSError` if they are not.

    Without them, the first write into a page that a full disk has no block for ends the process.
    """
    table = open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return table
