"""What a reader of a report must know of the machine and the software."""

import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = (
    "mmsr",
    "numpy",
    "grpcio",
    "uvloop",
    "protobuf",
    "onnxruntime",
    "onnxruntime-gpu",
    "hdrhistogram",
)
GPU_QUERY = "name,driver_version,memory.total,memory.used,clocks.sm,clocks.mem,clocks.max.sm"
ASK_S = 10.0  # for git and nvidia-smi to answer


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
    commit: str | None  # of the source tree that runs, with "+" where it was changed
    gpus: list[dict[str, str]]  # what nvidia-smi says of each

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
        commit=_commit(),
        gpus=_gpus(),
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


def _commit() -> str | None:
    """Return the commit of the tree that this file is in; None where it is no work tree."""
    folder = str(Path(__file__).parent)
    commit = _said("git", "-C", folder, "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return None
    return commit + ("+" if _said("git", "-C", folder, "status", "--porcelain", "-uno") else "")


def _gpus() -> list[dict[str, str]]:
    said = _said("nvidia-smi", f"--query-gpu={GPU_QUERY}", "--format=csv,noheader")
    names = GPU_QUERY.split(",")
    lines = (said or "").splitlines()
    return [dict(zip(names, map(str.strip, line.split(",")), strict=False)) for line in lines]


def _said(program: str, *arguments: str) -> str | None:
    """Return what a program prints; None if it is not there or fails."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=ASK_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
