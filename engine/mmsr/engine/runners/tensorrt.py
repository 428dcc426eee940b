"""TensorRT and TensorRT-RTX as one runner: a CUDA graph for each shape, two lanes of streams.

Tables are bound by their address in the device's memory. A batch beyond the largest profile is
computed in pieces that take turns on the two lanes: one piece's copies overlap with the other's
computation. Knows graphs and arrays, nothing of items or requests.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mmsr.bundle.manifest import GraphSpec, TensorSpec
from mmsr.engine.errors import DeviceFailed
from mmsr.engine.runners.base import AnyArray
from mmsr.engine.runners.buckets import (
    Key,
    Shaped,
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
from mmsr.engine.runners.tensorrt_engine import Engine, EngineContext

LANES = 2
MOST_CALLS = 64  # shapes a lane whose buffers and graphs are kept


class _Call:
    """One shape on one lane: buffers, a context, and from the second time on a CUDA graph."""

    def __init__(self, device: Device, memory: DeviceCall, context: EngineContext) -> None:
        self._device = device
        self._context = context
        self._graph: int | None = None
        self._runs = 0
        self.memory = memory

    def start(self, inputs: Mapping[str, AnyArray], stream: int) -> None:
        """Queue copies in, computation and copies out."""
        self.memory.fill(inputs)
        # TensorRT makes ready in a first call what may not happen while a graph is captured.
        if self._runs == 1 and self._context.capturable(stream):
            self._graph = self._device.capture(stream, lambda: self._queue(stream))
        self._runs += 1
        if self._graph is None:
            self._queue(stream)
        else:
            self._device.launch(self._graph, stream)

    def close(self) -> None:
        """Free everything; nothing may be under way."""
        if self._graph is not None:
            self._device.forget(self._graph)
        self.memory.close()

    def _queue(self, stream: int) -> None:
        self.memory.queue_in()
        self._context.enqueue(stream)
        self.memory.queue_out()


class _Lane:
    """A stream with the memory that its calls compute in, one after another."""

    def __init__(self, device: Device, scratch_bytes: int) -> None:
        self._device = device
        self.stream = device.stream()
        self.scratch = device.allocate(scratch_bytes)
        self.calls: OrderedDict[Key, _Call] = OrderedDict()

    def wait(self) -> None:
        """Return when all its calls are done."""
        self._device.wait(self.stream)

    def forget_calls(self) -> None:
        """Free the calls."""
        self.wait()
        for call in self.calls.values():
            call.close()
        self.calls.clear()

    def close(self) -> None:
        """Free everything."""
        self.forget_calls()
        self._device.free(self.scratch)


class TensorRTRunner:
    """One engine; its tensors may be of other types than the bundle's graph, as tables in half."""

    def __init__(
        self, engine: Engine, spec: GraphSpec, steps: Steps, device: Device, *, name: str
    ) -> None:
        check_engine(engine, spec)
        self._engine = engine
        self._device = device
        self._steps = steps
        self._inner = replace(
            spec,
            inputs=tuple(_typed(tensor, engine) for tensor in spec.inputs),
            outputs=tuple(_typed(tensor, engine) for tensor in spec.outputs),
        )
        self._tables = DeviceTables(device, {t.name: t for t in self._inner.inputs})
        self._per_result = outputs_per_result(spec, steps)
        self._lanes: list[_Lane] = []
        self.spec = spec
        self.name = name

    def bind(self, name: str, array: AnyArray) -> None:
        """Copy a table to the device."""
        if self._tables.bind(name, array):
            for lane in self._lanes:
                lane.forget_calls()  # they read it where it was

    def write_rows(
        self, name: str, rows: Sequence[int], values: AnyArray, *, axis: int = 0
    ) -> None:
        """Overwrite rows of a table in the device's memory."""
        self._tables.write_rows(name, rows, values, axis=axis)

    def run(self, batch: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Compute all outputs; they are copies that the caller owns. `TooLargeError`: too large."""
        found: list[dict[str, AnyArray]] = []
        under_way: deque[tuple[_Lane, _Call, Shaped]] = deque()
        bound = bound_key(self._inner, self._tables.shape)
        shapes = [
            shape_batch(self._inner, self._steps, piece, bound)
            for piece in pieces(self._inner, self._steps, batch)
        ]
        try:
            for place, shaped in enumerate(shapes):
                if len(under_way) == LANES:
                    found.append(self._answer(*under_way.popleft()))
                lane = self._lane(place % LANES)
                call = self._call(lane, shaped.key, bound)
                call.start(shaped.inputs, lane.stream)
                under_way.append((lane, call, shaped))
            while under_way:
                found.append(self._answer(*under_way.popleft()))
        finally:
            for lane, _, _ in under_way:  # an error left them
                lane.wait()
        return joined(found)

    def close(self) -> None:
        """Free the device's memory."""
        for lane in self._lanes:
            lane.close()
        self._lanes.clear()
        self._tables.close()

    def _answer(self, lane: _Lane, call: _Call, shaped: Shaped) -> dict[str, AnyArray]:
        lane.wait()
        return cut(call.memory.answers(), shaped, self._per_result)

    def _lane(self, place: int) -> _Lane:
        """Return a lane, made when it is first needed: its memory may be a gigabyte."""
        while len(self._lanes) <= place:
            self._lanes.append(_Lane(self._device, self._engine.scratch_bytes))
        return self._lanes[place]

    def _call(self, lane: _Lane, shape: Key, bound: Key) -> _Call:
        key = (*shape, *bound)
        if key in lane.calls:
            lane.calls.move_to_end(key)
            return lane.calls[key]
        if len(lane.calls) >= MOST_CALLS:
            lane.wait()
            _, oldest = lane.calls.popitem(last=False)
            oldest.close()
        call = lane.calls[key] = self._make(lane, shape, key)
        return call

    def _make(self, lane: _Lane, shape: Key, key: Key) -> _Call:
        engine, tables = self._engine, self._tables
        on_host = frozenset(name for name, tensor in engine.tensors.items() if tensor.on_host)
        free = [tensor for tensor in self._inner.inputs if tensor.name not in tables.address]
        results = next(iter(self._steps.values), None)
        inputs = places_of(free, key, results=None, on_host=on_host)
        outputs = places_of(self._inner.outputs, key, results=results, on_host=frozenset())
        memory = DeviceCall(self._device, lane.stream, inputs, outputs)
        values = dict(key)
        for place in inputs:
            if place.on_host:  # the engine asks for sizes before they are filled in
                memory.host[place.name][...] = values[place.name]
        context = engine.context(self._steps.batch_place(shape), lane.scratch, lane.stream)
        shapes = {place.name: place.shape for place in inputs} | tables.shape
        for name, address in {**tables.address, **memory.address}.items():
            if name in shapes and engine.tensors[name].varies:
                context.set_shape(name, shapes[name])
            context.set_address(name, address)
        for place in outputs:
            if context.output_shape(place.name) != place.shape:
                raise DeviceFailed(
                    f"output {place.name!r} would be {list(context.output_shape(place.name))}, "
                    f"expected {list(place.shape)}"
                )
        return _Call(self._device, memory, context)


def _typed(tensor: TensorSpec, engine: Engine) -> TensorSpec:
    return replace(tensor, dtype=engine.tensors[tensor.name].dtype)


def check_engine(engine: Engine, spec: GraphSpec) -> None:
    """Raise `DeviceFailed` unless the engine has the inputs and outputs of the graph."""
    expected = {t.name: True for t in spec.inputs} | {t.name: False for t in spec.outputs}
    found = {name: tensor.is_input for name, tensor in engine.tensors.items()}
    if found != expected:
        odd = sorted(expected.items() ^ found.items())
        raise DeviceFailed(
            f"the engine's tensors are not those of {spec.file}: {', '.join(n for n, _ in odd)}"
        )
