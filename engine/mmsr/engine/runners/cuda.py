"""Memory, streams and graphs of the first CUDA device: what the runners need of CUDA's runtime.

By NVIDIA's `cuda-bindings`, which needs no torch and is imported when a device is asked for.
"""

import ctypes
import importlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mmsr.engine.errors import DeviceFailed

Bytes = npt.NDArray[np.uint8]


class Device(Protocol):
    """A device's memory and streams; addresses and handles are integers."""

    def allocate(self, size: int) -> int:
        """Return the address of `size` bytes of its memory."""

    def free(self, address: int) -> None:
        """Give memory back."""

    def pinned(self, size: int) -> Bytes:
        """Return host memory [size] that the device copies from and to by itself."""

    def unpin(self, buffer: Bytes) -> None:
        """Give such memory back; nobody may use it any more."""

    def stream(self) -> int:
        """Return a new stream."""

    def write(self, address: int, source: int, size: int, stream: int) -> None:
        """Queue a copy from the host; it ends at once where the source is not pinned."""

    def read(self, target: int, address: int, size: int, stream: int) -> None:
        """Queue a copy to the host's pinned memory."""

    def write_column(self, address: int, pitch: int, source: int, shape: tuple[int, int]) -> None:
        """Copy `shape` (lines, bytes) from the host; the device's lines lie `pitch` apart."""

    def wait(self, stream: int) -> None:
        """Return when everything that was queued is done."""

    def capture(self, stream: int, work: Callable[[], None]) -> int | None:
        """Return what `work` queues as a graph, or None if it cannot be captured."""

    def launch(self, graph: int, stream: int) -> None:
        """Queue a graph."""

    def forget(self, graph: int) -> None:
        """Free a graph."""


class CudaDevice:
    """The first CUDA device; `DeviceFailed` says which call failed and why."""

    def __init__(self) -> None:
        self._cuda: Any = importlib.import_module("cuda.bindings.runtime")
        self._call("cudaSetDevice", 0)
        self._kinds = self._cuda.cudaMemcpyKind

    def allocate(self, size: int) -> int:
        """Return the address of `size` bytes of device memory."""
        return int(self._call("cudaMalloc", max(1, size)))

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("cudaFree", address)

    def pinned(self, size: int) -> Bytes:
        """Return page-locked host memory [size]."""
        address = int(self._call("cudaMallocHost", max(1, size)))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def unpin(self, buffer: Bytes) -> None:
        """Give page-locked memory back."""
        self._call("cudaFreeHost", buffer.ctypes.data)

    def stream(self) -> int:
        """Return a new stream that does not wait for the default one."""
        return int(self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking))

    def write(self, address: int, source: int, size: int, stream: int) -> None:
        """Queue a copy from the host."""
        kind = self._kinds.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source, size, kind, stream)

    def read(self, target: int, address: int, size: int, stream: int) -> None:
        """Queue a copy to the host."""
        kind = self._kinds.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target, address, size, kind, stream)

    def write_column(self, address: int, pitch: int, source: int, shape: tuple[int, int]) -> None:
        """Copy lines of `shape[1]` bytes that lie `pitch` apart on the device."""
        lines, width = shape
        kind = self._kinds.cudaMemcpyHostToDevice
        self._call("cudaMemcpy2D", address, pitch, source, width, width, lines, kind)

    def wait(self, stream: int) -> None:
        """Return when everything that was queued is done."""
        self._call("cudaStreamSynchronize", stream)

    def capture(self, stream: int, work: Callable[[], None]) -> int | None:
        """Return what `work` queues as a graph; None if something in it cannot be captured."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            work()
        except DeviceFailed:
            self._cuda.cudaStreamEndCapture(stream)  # ends it, also where it has become invalid
            self._cuda.cudaGetLastError()  # and the error that is left behind
            return None
        captured, graph = self._cuda.cudaStreamEndCapture(stream)
        if int(captured):
            self._cuda.cudaGetLastError()
            return None
        made = int(self._call("cudaGraphInstantiate", graph, 0))
        self._call("cudaGraphDestroy", graph)
        return made

    def launch(self, graph: int, stream: int) -> None:
        """Queue a graph."""
        self._call("cudaGraphLaunch", graph, stream)

    def forget(self, graph: int) -> None:
        """Free a graph."""
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call the runtime; return its result, if it has one."""
        error, *results = getattr(self._cuda, name)(*arguments)
        if int(error):
            raise DeviceFailed(f"{name}: {error.name}")
        return results[0] if results else None
