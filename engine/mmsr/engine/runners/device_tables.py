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
        self.address: dict[str, int] = {}
        self.shape: dict[str, tuple[int, ...]] = {}

    def bind(self, name: str, array: AnyArray) -> bool:
        """Copy a table to the device; return whether its address is another one than before."""
        tensor = self._tensors[name]
        array = as_input(tensor, array)
        check_tensor(tensor, array)
        array = np.ascontiguousarray(array)
        moved = array.nbytes > self._room.get(name, 0)
        if moved:
            if name in self.address:
                self._device.free(self.address[name])
            self.address[name] = self._device.allocate(array.nbytes)
            self._room[name] = array.nbytes
        self.shape[name] = array.shape
        self._device.write(self.address[name], array.ctypes.data, array.nbytes, self._stream)
        self._device.wait(self._stream)
        return moved

    def write_rows(
        self, name: str, rows: Sequence[int], values: AnyArray, *, axis: int = 0
    ) -> None:
        """Overwrite rows [n] of a bound table; see `Runner.write_rows`."""
        tensor = self._tensors[name]
        values = as_input(tensor, values)
        check_rows(name, self.shape[name], rows, values, axis)
        # One line in memory a row, and then one copy a row: they are few.
        lines = np.ascontiguousarray(np.moveaxis(values, axis, 0), tensor.dtype)
        size = lines.itemsize
        if axis == 0:
            width = math.prod(self.shape[name][1:]) * size
            for row, line in zip(rows, lines, strict=True):
                address = self.address[name] + int(row) * width
                self._device.write(address, line.ctypes.data, width, self._stream)
        else:
            count, pitch = self.shape[name][0], self.shape[name][1] * size
            for row, line in zip(rows, lines, strict=True):
                address = self.address[name] + int(row) * size
                self._device.write_column(address, pitch, line.ctypes.data, (count, size))
        self._device.wait(self._stream)

    def close(self) -> None:
        """Free the tables."""
        for address in self.address.values():
            self._device.free(address)
        self.address.clear()
        self._room.clear()
