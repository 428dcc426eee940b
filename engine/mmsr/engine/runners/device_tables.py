"""Tables in a device's memory: bound once, kept at their address, changed row by row."""

# n rows that are written

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mmsr.bundle.manifest import TensorSpec
from mmsr.engine.runners.base import AnyArray, as_input, check_rows, check_tensor
from mmsr.engine.runners.cuda import Device


class DeviceTables:
    """The bound inputs of one graph."""

    def __init__(self, device: Device, tensors: Mapping[str, TensorSpec]) -> None:
        self._device = device
        self._tensors = tensors
        self._stream = device.stream()
        self._room: dict[str, int] = {}  # bytes
        self._source: dict[str, AnyArray] = {}  # what was copied, the most rows of it
        self.address: dict[str, int] = {}
        self.shape: dict[str, tuple[int, ...]] = {}

    def bind(self, name: str, array: AnyArray) -> bool:
        """Copy a table to the device; return whether its address is another one than before.

        More or fewer rows of the table that is bound, in the same memory, cost the copy of those
        that the device has not got. As many rows are all copied: they may have changed.
        """
        tensor = self._tensors[name]
        array = np.ascontiguousarray(as_input(tensor, array))
        check_tensor(tensor, array)
        held = self._held(name, array)
        moved = array.nbytes > self._room.get(name, 0)
        if moved:
            held = 0
            if name in self.address:
                self._device.free(self.address[name])
            self.address[name] = self._device.allocate(array.nbytes)
            self._room[name] = array.nbytes
        new = array[held:]
        if new.nbytes:
            begin = self.address[name] + array.nbytes - new.nbytes
            self._device.write(begin, new.ctypes.data, new.nbytes, self._stream)
            self._device.wait(self._stream)
        self.shape[name] = array.shape
        if name not in self._source or held < len(array):
            self._source[name] = array  # kept: no other array can come to lie in its place
        return moved

    def _held(self, name: str, array: AnyArray) -> int:
        """Return how many rows of the array are on the device as they are."""
        before = self._source.get(name)
        same = (
            before is not None
            and before.ctypes.data == array.ctypes.data
            and before.shape[1:] == array.shape[1:]
            and self.shape[name] != array.shape
        )
        return min(len(before), len(array)) if same and before is not None else 0

    def write_rows(
        self, name: str, rows: Sequence[int], values: AnyArray, *, axis: int = 0
    ) -> None:
        """Overwrite rows [n] of a bound table; see `Runner.write_rows`."""
        tensor = self._tensors[name]
        values = as_input(tensor, values)
        shape = self._source[name].shape
        check_rows(name, shape, rows, values, axis)
        # One line in memory a row, and then one copy a row: they are few. What lies beyond the rows
        # that the device has is copied when it is bound.
        lines = np.ascontiguousarray(np.moveaxis(values, axis, 0), tensor.dtype)
        known = [(row, line) for row, line in zip(rows, lines, strict=True) if row < shape[axis]]
        size = lines.itemsize
        if axis == 0:
            width = math.prod(shape[1:]) * size
            for row, line in known:
                address = self.address[name] + int(row) * width
                self._device.write(address, line.ctypes.data, width, self._stream)
        else:
            count, pitch = shape[0], shape[1] * size
            for row, line in known:
                address = self.address[name] + int(row) * size
                self._device.write_column(address, pitch, line.ctypes.data, (count, size))
        self._device.wait(self._stream)

    def close(self) -> None:
        """Free the tables."""
        for address in self.address.values():
            self._device.free(address)
        self.address.clear()
        self._room.clear()
        self._source.clear()
