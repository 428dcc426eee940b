"""Times calls as a server makes them: host arrays in, host arrays out, one after another.

Wall time is of the whole call with its copies; device time, by CUDA events, of the computation
alone.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

WARM_UP = 5  # calls; the first ones allocate, choose kernels or capture
LEAST_CALLS = 5
MOST_CALLS = 2000


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One call with its memory in place: `launch` reads `inputs` and fills what `outputs` gives."""

    inputs: dict[str, Tensor]  # on the device; overwritten before each call
    launch: Callable[[], None]
    outputs: Callable[[], Sequence[Tensor]]  # on the device; rows and scores [B, K] of a request
    holds: object = None  # what must live as long as the call


@dataclass(frozen=True, kw_only=True)
class Times:
    """Milliseconds of one cell."""

    calls: int
    wall_p50_ms: float
    wall_p99_ms: float
    device_p50_ms: float | None  # None without CUDA
    device_p99_ms: float | None
    requests_per_s: float

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        return asdict(self)


def measure(call: Prepared, batch: int, seconds: float, device: str) -> Times:
    """Time `call` for about `seconds`."""
    cuda = device == "cuda"
    host = {name: _pinned(tensor, cuda) for name, tensor in call.inputs.items()}
    wall: list[float] = []
    device_ms: list[float] = []
    for _ in range(WARM_UP):
        _once(call, host, cuda)
    end_s = time.perf_counter() + seconds
    while len(wall) < LEAST_CALLS or (time.perf_counter() < end_s and len(wall) < MOST_CALLS):
        began = time.perf_counter()
        took_ms = _once(call, host, cuda)
        wall.append(1e3 * (time.perf_counter() - began))
        device_ms += [] if took_ms is None else [took_ms]
    return Times(
        calls=len(wall),
        wall_p50_ms=float(np.percentile(wall, 50)),
        wall_p99_ms=float(np.percentile(wall, 99)),
        device_p50_ms=float(np.percentile(device_ms, 50)) if device_ms else None,
        device_p99_ms=float(np.percentile(device_ms, 99)) if device_ms else None,
        requests_per_s=1e3 * batch * len(wall) / sum(wall),
    )


def _once(call: Prepared, host: dict[str, Tensor], cuda: bool) -> float | None:
    for name, tensor in host.items():
        call.inputs[name].copy_(tensor, non_blocking=True)
    if not cuda:
        call.launch()
        for output in call.outputs():
            output.cpu()
        return None
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    call.launch()
    after.record()
    for output in call.outputs():
        output.cpu()  # waits
    after.synchronize()
    return float(before.elapsed_time(after))


def _pinned(tensor: Tensor, cuda: bool) -> Tensor:
    copy = tensor.to("cpu", copy=True)
    return copy.pin_memory() if cuda else copy


def captured(launch: Callable[[], None]) -> Callable[[], None]:
    """Return the replay of a CUDA graph of `launch`, which must use the current stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            launch()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    return graph.replay


def copy_rate_bytes_per_s(device: str, bytes_: int) -> float:
    """Return the rate of a copy within the device's memory: bytes read and written a second."""
    source = torch.empty(bytes_, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    times = []
    for _ in range(12):
        began = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * bytes_ / float(np.median(times[2:]))
