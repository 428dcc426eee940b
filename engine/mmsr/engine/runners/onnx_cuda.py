"""ONNX Runtime on a CUDA device: tables stay in its memory, a CUDA graph for each shape.

Knows graphs and arrays, nothing of items or requests.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.errors import DeviceFailed
from mmsr.engine.runners.base import AnyArray
from mmsr.engine.runners.buckets import (
    Key,
    Steps,
    cut,
    joined,
    outputs_per_result,
    pieces,
    shape_batch,
)
from mmsr.engine.runners.cuda import Device
from mmsr.engine.runners.device_call import DeviceCall, bound_key, places_of
from mmsr.engine.runners.device_tables import DeviceTables
from mmsr.engine.runners.onnx import ERRORS_ONLY, LOAD_ERRORS, check_graph

log = logging.getLogger(__name__)

PROVIDER = "CUDAExecutionProvider"
MOST_CALLS = 64  # shapes whose buffers are kept
NO_GRAPH = -1  # ONNX Runtime's own number for a run that is not captured
# Halves of the numbers' bits are lost in TensorFloat-32, and with them the limits of fp32.
OPTIONS = {"device_id": "0", "use_tf32": "0"}


class _Call:
    """One shape: its buffers, bound once, and the number of its CUDA graph."""

    def __init__(self, memory: DeviceCall, binding: Any, graph: int) -> None:
        self.memory = memory
        self.binding = binding
        self.options = ort.RunOptions()
        self.options.add_run_config_entry("gpu_graph_id", str(graph))


class OnnxCudaRunner:
    """One session on a device; `place` is "cuda", or "cpu" where a test plays the device."""

    def __init__(
        self, session: Any, spec: GraphSpec, steps: Steps, device: Device, *, place: str = "cuda"
    ) -> None:
        self._session = session
        self._steps = steps
        self._device = device
        self._place = place
        self._stream = device.stream()
        self._tables = DeviceTables(device, {tensor.name: tensor for tensor in spec.inputs})
        self._calls: OrderedDict[Key, _Call] = OrderedDict()
        self._graphs = 0
        self._per_result = outputs_per_result(spec, steps)
        self.spec = spec
        self.name = f"ONNX Runtime {session.get_providers()[0]}"

    def bind(self, name: str, array: AnyArray) -> None:
        """Copy a table to the device."""
        if self._tables.bind(name, array):
            self._forget_calls()  # they read it where it was

    def write_rows(
        self, name: str, rows: Sequence[int], values: AnyArray, *, axis: int = 0
    ) -> None:
        """Overwrite rows of a table in the device's memory."""
        self._tables.write_rows(name, rows, values, axis=axis)

    def run(self, batch: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Compute all outputs; they are copies that the caller owns. `TooLargeError`: too large."""
        return joined([self._run(piece) for piece in pieces(self.spec, self._steps, batch)])

    def close(self) -> None:
        """Free the session and the device's memory."""
        self._forget_calls()
        self._tables.close()
        del self._session

    def _run(self, batch: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        bound = bound_key(self.spec, self._tables.shape)
        shaped = shape_batch(self.spec, self._steps, batch, bound)
        call = self._call((*shaped.key, *bound))
        call.memory.fill(shaped.inputs)
        call.memory.queue_in()
        self._device.wait(self._stream)  # the session computes in a stream of its own
        self._session.run_with_iobinding(call.binding, call.options)
        call.memory.queue_out()
        self._device.wait(self._stream)
        return cut(call.memory.answers(), shaped, self._per_result)

    def _call(self, key: Key) -> _Call:
        if key in self._calls:
            self._calls.move_to_end(key)
            return self._calls[key]
        if len(self._calls) >= MOST_CALLS:
            _, oldest = self._calls.popitem(last=False)
            oldest.memory.close()
        # A graph reads the buffers that it was captured with, and cannot be freed alone: past so
        # many shapes they are computed without.
        self._graphs += 1
        graph = self._graphs if self._graphs <= MOST_CALLS else NO_GRAPH
        call = self._calls[key] = _Call(*self._memory(key), graph)
        return call

    def _memory(self, key: Key) -> tuple[DeviceCall, Any]:
        values = frozenset(self._steps.values)
        free = [tensor for tensor in self.spec.inputs if tensor.name not in self._tables.address]
        results = next(iter(values), None)
        inputs = places_of(free, key, results=None, on_host=values)
        outputs = places_of(self.spec.outputs, key, results=results, on_host=frozenset())
        memory = DeviceCall(self._device, self._stream, inputs, outputs)
        binding = self._session.io_binding()
        for place in inputs:
            where = "cpu" if place.on_host else self._place
            address = memory.address[place.name]
            binding.bind_input(place.name, where, 0, place.dtype, place.shape, address)
        for place in outputs:
            address = memory.address[place.name]
            binding.bind_output(place.name, self._place, 0, place.dtype, place.shape, address)
        for tensor in self.spec.inputs:
            if tensor.name in self._tables.address:
                shape, address = self._tables.shape[tensor.name], self._tables.address[tensor.name]
                binding.bind_input(tensor.name, self._place, 0, tensor.dtype, shape, address)
        return memory, binding

    def _forget_calls(self) -> None:
        for call in self._calls.values():
            call.memory.close()
        self._calls.clear()


def open_onnx_cuda(path: Path, spec: GraphSpec, steps: Steps, device: Device) -> OnnxCudaRunner:
    """Load the graph at `path` on the first CUDA device, with CUDA graphs where it allows them.

    `DeviceFailed` if the device does not take it, `BundleError` unless it is what `spec` says.
    """
    ort.preload_dlls(directory="")  # of NVIDIA's packages, if they are not on the system's path
    try:
        session = _session(path, {**OPTIONS, "enable_cuda_graph": "1"})
    except LOAD_ERRORS as error:
        # An operator that only the CPU has: ONNX Runtime refuses to capture such a graph.
        log.info("%s runs without CUDA graphs: %s", path.name, str(error).strip())
        session = _session(path, OPTIONS)
    if session.get_providers()[0] != PROVIDER:
        raise DeviceFailed(
            f"ONNX Runtime cannot use CUDA here: it took {session.get_providers()[0]}"
        )
    check_graph(path, spec, session)
    return OnnxCudaRunner(session, spec, steps, device)


def _session(path: Path, options: Mapping[str, str]) -> Any:
    settings = ort.SessionOptions()
    settings.log_severity_level = ERRORS_ONLY
    providers = [(PROVIDER, dict(options)), "CPUExecutionProvider"]
    try:
        return ort.InferenceSession(str(path), settings, providers=providers)
    except LOAD_ERRORS as error:
        if options is OPTIONS:
            raise DeviceFailed(f"{path.name}: {str(error).strip()}") from None
        raise
