"""Opens `.npy` tables, of a bundle and others. Knows nothing of what is in them."""

from pathlib import Path
from tokenize import TokenError
from typing import Any

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
