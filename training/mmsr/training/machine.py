"""What a reader of a result must know of the machine."""

import os
import platform
import sys
from pathlib import Path

import torch

from mmsr.training.comparison import Machine


def describe_machine() -> Machine:
    """Look at this machine now."""
    return Machine(
        processor=_processor(),
        cores=_cores(),
        threads=torch.get_num_threads(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        system=platform.platform(),
        python=platform.python_version(),
    )


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
