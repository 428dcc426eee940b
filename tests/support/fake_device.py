"""A device in the host's memory: streams that do nothing until somebody waits, graphs, an engine.

Addresses are real, so that what a runner does with them is done; copies and calls are queued and
happen at `wait`, so that whoever reads an answer too early reads what was there before.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.errors import DeviceFailed
from mmsr.engine.runners.base import AnyArray
from mmsr.engine.runners.cuda import Bytes
from mmsr.engine.runners.tensorrt_engine import EngineTensor

Work = Callable[[], None]
GARBAGE = 0xAB  # what fresh memory holds


class FakeDevice:
    """A device's memory and streams, as `mmsr.engine.runners.cuda.Device`."""

    def __init__(self) -> None:
        self.memory: dict[int, Bytes] = {}  # by address, the device's and the pinned
        self.pinned_addresses: set[int] = set()
        self.queues: dict[int, list[Work]] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.recording: list[Work] | None = None
        self.written = 0  # bytes that were copied to the device
        self.launches = 0

    def allocate(self, size: int) -> int:
        buffer = np.full(max(1, size), GARBAGE, np.uint8)
        self.memory[buffer.ctypes.data] = buffer
        return buffer.ctypes.data

    def free(self, address: int) -> None:
        del self.memory[address]

    def pinned(self, size: int) -> Bytes:
        address = self.allocate(size)
        self.pinned_addresses.add(address)
        return self.memory[address][:size]

    def unpin(self, buffer: Bytes) -> None:
        self.pinned_addresses.remove(buffer.ctypes.data)
        self.free(buffer.ctypes.data)

    def stream(self) -> int:
        self.queues[len(self.queues) + 1] = []
        return len(self.queues)

    def write(self, address: int, source: int, size: int, stream: int) -> None:
        self.written += size

        def copy() -> None:
            ctypes.memmove(address, source, size)

        self.queue(stream, copy)
        if source not in self.pinned_addresses and self.recording is None:
            self.wait(stream)

    def read(self, target: int, address: int, size: int, stream: int) -> None:
        assert target in self.pinned_addresses, "copies to the host go to pinned memory"

        def copy() -> None:
            ctypes.memmove(target, address, size)

        self.queue(stream, copy)

    def write_column(self, address: int, pitch: int, source: int, shape: tuple[int, int]) -> None:
        lines, width = shape
        for line in range(lines):
            ctypes.memmove(address + line * pitch, source + line * width, width)
        self.written += lines * width

    def wait(self, stream: int) -> None:
        queue, self.queues[stream] = self.queues[stream], []
        for work in queue:
            work()

    def capture(self, stream: int, work: Work) -> int | None:
        assert self.recording is None
        self.recording = []
        try:
            work()
        except DeviceFailed:
            return None
        finally:
            recorded, self.recording = self.recording, None
        self.graphs[len(self.graphs) + 1] = recorded
        return len(self.graphs)

    def launch(self, graph: int, stream: int) -> None:
        self.launches += 1
        self.queues[stream] += self.graphs[graph]

    def forget(self, graph: int) -> None:
        self.graphs[graph] = []

    def queue(self, stream: int, work: Work) -> None:
        """Queue work, into the graph that is being captured if one is."""
        (self.queues[stream] if self.recording is None else self.recording).append(work)


class FakeEngine:
    """An ONNX file as if it were an engine with these profiles (least and most of a dimension)."""

    def __init__(
        self,
        path: Path,
        spec: GraphSpec,
        profiles: Sequence[Mapping[str, tuple[int, int]]],
        device: FakeDevice,
        *,
        capturable: bool = True,
    ) -> None:
        self.session = open_session(path)
        self.spec = spec
        self.profiles = profiles
        self.device = device
        self.is_capturable = capturable
        self.scratch_bytes = 1000
        self.contexts = 0

    @property
    def tensors(self) -> dict[str, EngineTensor]:
        inputs = {
            t.name: EngineTensor(t.dtype, True, t.name == "k", t.name != "k")
            for t in self.spec.inputs
        }
        return inputs | {
            t.name: EngineTensor(t.dtype, False, False, True) for t in self.spec.outputs
        }

    def context(self, profile: int, scratch: int, stream: int) -> "FakeContext":
        assert scratch in self.device.memory
        self.contexts += 1
        return FakeContext(self, self.profiles[profile])


class FakeContext:
    """One shape's way through a `FakeEngine`."""

    def __init__(self, engine: FakeEngine, profile: Mapping[str, tuple[int, int]]) -> None:
        self.engine = engine
        self.profile = profile
        self.shapes: dict[str, tuple[int, ...]] = {"k": (1,)}
        self.addresses: dict[str, int] = {}
        self.ready = False  # as TensorRT is after a first call

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        (tensor,) = [t for t in self.engine.spec.inputs if t.name == name]
        for dim, size in zip(tensor.shape, shape, strict=True):
            least, most = self.profile.get(str(dim), (size, size))
            if not least <= size <= most:
                raise DeviceFailed(f"{name} {shape}: {dim} is not within {least} to {most}")
        self.shapes[name] = shape

    def set_address(self, name: str, address: int) -> None:
        assert address in self.engine.device.memory
        self.addresses[name] = address

    def output_shape(self, name: str) -> tuple[int, ...]:
        (tensor,) = [t for t in self.engine.spec.outputs if t.name == name]
        sizes = {
            str(dim): size
            for t in self.engine.spec.inputs
            for dim, size in zip(t.shape, self.shapes[t.name], strict=True)
        }
        if "K" in tensor.shape:
            (k,) = self.array("k", "int64", (1,))
            assert k <= self.shapes["item_outputs"][0], "more results than rows"
            sizes["K"] = int(k)
        return tuple(size if isinstance(size, int) else sizes[size] for size in tensor.shape)

    def capturable(self, stream: int) -> bool:
        return self.engine.is_capturable

    def enqueue(self, stream: int) -> None:
        if self.engine.device.recording is not None and not self.ready:
            raise DeviceFailed("a first call may not be captured")
        self.ready = True
        self.engine.device.queue(stream, self.compute)

    def compute(self) -> None:
        inputs = {
            t.name: self.array(t.name, t.dtype, self.shapes[t.name])
            for t in self.engine.spec.inputs
        }
        names = [t.name for t in self.engine.spec.outputs]
        for tensor, found in zip(
            self.engine.spec.outputs, self.engine.session.run(names, inputs), strict=True
        ):
            self.array(tensor.name, tensor.dtype, found.shape)[...] = found

    def array(self, name: str, dtype: str, shape: tuple[int, ...]) -> AnyArray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.engine.device.memory[self.addresses[name]][:size].view(dtype).reshape(shape)


def open_session(path: Path) -> Any:
    """Open a graph on the CPU, in one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
