"""The buffers of one shape: pinned on the host, their twins on the device. Computes nothing."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from mmsr.bundle.manifest import GraphSpec, TensorSpec
from mmsr.engine.runners.base import AnyArray
from mmsr.engine.runners.buckets import Key
from mmsr.engine.runners.cuda import Bytes, Device


class Place(NamedTuple):
    """One input or output of a call."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    on_host: bool = False  # a size, which the host reads

    @property
    def size(self) -> int:
        """How many bytes it takes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def places_of(
    tensors: Iterable[TensorSpec], key: Key, *, results: str | None, on_host: frozenset[str]
) -> list[Place]:
    """Return where tensors of a graph lie in a call of this key.

    `results`: the size in the key that the last dimension of an output follows.
    """
    sizes = dict(key)
    return [
        Place(
            tensor.name,
            tensor.dtype,
            tuple(
                size if isinstance(size, int) else sizes.get(size, sizes.get(results or "", -1))
                for size in tensor.shape
            ),
            tensor.name in on_host,
        )
        for tensor in tensors
    ]


class DeviceCall:
    """Memory for the inputs and outputs of one shape."""

    def __init__(
        self, device: Device, stream: int, inputs: Iterable[Place], outputs: Iterable[Place]
    ) -> None:
        self._device = device
        self._stream = stream
        self._inputs = list(inputs)
        self._outputs = list(outputs)
        self._pinned: list[Bytes] = []
        self.host: dict[str, AnyArray] = {}
        self.address: dict[str, int] = {}  # on the device, or on the host where it is read there
        for place in (*self._inputs, *self._outputs):
            buffer = device.pinned(place.size)
            self._pinned.append(buffer)
            self.host[place.name] = buffer.view(place.dtype).reshape(place.shape)
            self.address[place.name] = (
                buffer.ctypes.data if place.on_host else device.allocate(place.size)
            )

    def fill(self, inputs: Mapping[str, AnyArray]) -> None:
        """Write a batch of this shape into the pinned memory."""
        for place in self._inputs:
            self.host[place.name][...] = inputs[place.name]

    def queue_in(self) -> None:
        """Queue the copies to the device."""
        for place in self._inputs:
            if not place.on_host:
                source = self.host[place.name].ctypes.data
                self._device.write(self.address[place.name], source, place.size, self._stream)

    def queue_out(self) -> None:
        """Queue the copies back."""
        for place in self._outputs:
            target = self.host[place.name].ctypes.data
            self._device.read(target, self.address[place.name], place.size, self._stream)

    def answers(self) -> dict[str, AnyArray]:
        """Return the outputs, in the pinned memory: they hold until the next call."""
        return {place.name: self.host[place.name] for place in self._outputs}

    def close(self) -> None:
        """Free everything."""
        for place in (*self._inputs, *self._outputs):
            if not place.on_host:
                self._device.free(self.address[place.name])
        self.host.clear()
        self.address.clear()
        for buffer in self._pinned:
            self._device.unpin(buffer)
        self._pinned.clear()


def bound_key(spec: GraphSpec, shapes: Mapping[str, tuple[int, ...]]) -> Key:
    """Return what of a call's shape follows from the bound tables: their sizes that may vary."""
    sizes = {
        dim: size
        for tensor in spec.inputs
        for dim, size in zip(tensor.shape, shapes.get(tensor.name, ()), strict=False)
        if isinstance(dim, str)
    }
    return tuple(sorted(sizes.items()))
