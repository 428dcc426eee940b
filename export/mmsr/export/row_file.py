"""An .npy file written row by row: its memory does not grow with the table.

Through a mapped file it would: every page written counts as this process's until it is closed.
"""

import os
from pathlib import Path
from types import TracebackType

import numpy as np
from torch import Tensor

FLOAT32 = np.dtype(np.float32)


class RowFile:
    """A float32 table [rows, columns] in C order; rows that nobody appends are zero."""

    def __init__(self, path: Path, rows: int, columns: int) -> None:
        self._file = path.open("wb")
        self._rows_left, self._columns = rows, columns
        descr = np.lib.format.dtype_to_descr(FLOAT32)
        header = {"descr": descr, "fortran_order": False, "shape": (rows, columns)}
        np.lib.format.write_array_header_1_0(self._file, header)
        size = self._file.tell() + rows * columns * FLOAT32.itemsize
        self._file.flush()
        # Rows that nobody appends have their blocks too: whoever maps the file on a full disk
        # would be ended by a signal where one is missing.
        os.posix_fallocate(self._file.fileno(), 0, size)

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, rows_nC: Tensor) -> None:
        """Write the next rows."""
        values_nC = np.ascontiguousarray(rows_nC.detach().cpu().float().numpy())
        if values_nC.shape[1:] != (self._columns,) or len(values_nC) > self._rows_left:
            raise ValueError(
                f"{list(values_nC.shape)} for {self._rows_left} rows of {self._columns} columns"
            )
        self._file.write(values_nC.data)
        self._rows_left -= len(values_nC)
