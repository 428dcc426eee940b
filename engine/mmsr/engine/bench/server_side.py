"""What a run's answers say of the server's own work. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsr.engine.bench.latency import percentile
from mmsr.engine.bench.processes import Reading
from mmsr.engine.bench.samples import Samples

# R requests


@dataclass(frozen=True, kw_only=True)
class ServerSide:
    """What the answers say of the server's own work; None where they say nothing."""

    batch_size: float | None  # mean over requests: as a request sees it
    batches_per_s: float | None  # each computation once
    queue_us: float | None  # median
    compute_us: float | None  # median
    batch_sizes: dict[str, float]  # size -> how many batches of it


def server_side(answered: Samples, measured_s: float) -> ServerSide:
    """Return what answered requests tell of the batches in which they were computed."""
    computed = answered.pick(answered.batch_size_R > 0)
    if not len(computed):
        return ServerSide(
            batch_size=None, batches_per_s=None, queue_us=None, compute_us=None, batch_sizes={}
        )
    # Each of the n requests that rode in a batch of n tells of one n-th of it.
    sizes, requests = np.unique(computed.batch_size_R, return_counts=True)
    batches = requests / sizes
    return ServerSide(
        batch_size=float(np.mean(computed.batch_size_R)),
        batches_per_s=float(batches.sum()) / measured_s if measured_s > 0 else None,
        queue_us=_median(computed.queue_us_R),
        compute_us=_median(computed.compute_us_R),
        batch_sizes={str(n): round(b, 3) for n, b in zip(sizes, batches.tolist(), strict=True)},
    )


def _median(values_R: npt.NDArray[np.uint32]) -> float | None:
    return percentile(values_R.astype(np.float64), 0.5)


@dataclass(frozen=True, kw_only=True)
class ServerProcess:
    """What the operating system says of the server's process during a run."""

    cpu_us: float | None  # per request, warm-up included
    cpu_cores: float  # busy on average
    memory_mib: list[tuple[float, float]]  # seconds since the run's start, resident memory


def server_process(
    readings: Sequence[Reading], requests: int, start_s: float
) -> ServerProcess | None:
    """Return what the process used between the first and the last reading; None without two."""
    if len(readings) < 2:
        return None
    first, last = readings[0], readings[-1]
    cpu_s = last.cpu_s - first.cpu_s
    seconds = last.at_s - first.at_s
    return ServerProcess(
        cpu_us=cpu_s * 1e6 / requests if requests else None,
        cpu_cores=cpu_s / seconds if seconds > 0 else 0.0,
        memory_mib=[(round(r.at_s - start_s, 2), round(r.memory_mib, 1)) for r in readings],
    )
