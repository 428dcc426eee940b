"""What a reader of a report must know of the machine and the software."""

import importlib.metadata
import os
import platform
import shlex
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = ("mmsr", "numpy", "grpcio", "uvloop", "protobuf", "onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where, when and with what something was measured."""

    command: str
    time: str  # ISO 8601, UTC
    processor: str
    cores: int  # that this process may use
    memory_gib: float
    load_average: float  # of the last minute, when the report was begun: others' work counts
    system: str
    python: str
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self)


def describe_environment() -> Environment:
    """Look at this machine now."""
    return Environment(
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        processor=_processor(),
        cores=_cores(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        load_average=round(os.getloadavg()[0], 2),
        system=platform.platform(),
        python=platform.python_version(),
        versions=_versions(),
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


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
