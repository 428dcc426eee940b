"""What training costs: seconds, histories a second, the most memory it has taken."""

import resource
import sys
import time
from dataclasses import replace
from statistics import median

import torch

from mmsr.training.checkpoint import RunInfo

MEASURED = "measured"  # in a run's provenance
PEAKS = ("peak_rss_mib", "peak_cuda_mib")
MIB = 1 << 20
# getrusage counts KiB, on macOS bytes.
RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1 << 10


class Stopwatch:
    """Times one epoch. Whoever reads it has waited for the GPU before."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()

    def seconds(self) -> float:
        """Return the time since the beginning."""
        return round(time.perf_counter() - self._began_s, 3)


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return the most memory that this process has had so far, of the host and of the GPU, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES
    peaks = {"peak_rss_mib": round(peak / MIB, 1)}
    if device.type == "cuda":
        peaks["peak_cuda_mib"] = round(torch.cuda.max_memory_allocated(device) / MIB, 1)
    return peaks


def with_measured(info: RunInfo, log: list[dict[str, float]]) -> RunInfo:
    """Return the run with its median speed and its peaks of memory in the provenance."""
    rates = [line["sequences_per_s"] for line in log if "sequences_per_s" in line]
    measured = {"sequences_per_s": median(rates)} if rates else {}
    for name in PEAKS:
        if peaks := [line[name] for line in log if name in line]:
            measured[name] = max(peaks)
    return replace(info, provenance=info.provenance | {MEASURED: measured})
