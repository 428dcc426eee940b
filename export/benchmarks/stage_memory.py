"""`mmsr-export` as it is, with the peak of resident memory of each of its stages beside it.

    python -c "from benchmarks.stage_memory import main; main()" FILE RUN [what mmsr-export takes]

Linux alone: the kernel counts the peak (VmHWM), which each stage sets back when it begins. Pages
of mapped files count as the process's own memory does, once for each place that they are mapped.
"""

import atexit
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from unittest.mock import patch

from mmsr.export import build, cli

OPENING = "opening the run"  # imports and the checkpoint: what comes before the first stage
PEAK = "VmHWM"
SET_PEAK_BACK = "5"  # written to clear_refs, see proc(5)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Resident memory of a process in MiB: now, of that its own and of files, and the peak."""

    resident_mib: float
    own_mib: float
    files_mib: float
    peak_mib: float


def memory_now() -> Memory:
    """Read this process's from the kernel."""
    kib: dict[str, float] = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            kib[name] = float(value.split()[0])
    return Memory(
        resident_mib=kib["VmRSS"] / 1024,
        own_mib=kib["RssAnon"] / 1024,
        files_mib=(kib["RssFile"] + kib["RssShmem"]) / 1024,
        peak_mib=kib[PEAK] / 1024,
    )


@dataclass(kw_only=True)
class Ledger:
    """The memory at the end of each stage, and the peak within it."""

    path: Path
    stages: dict[str, Memory] = field(default_factory=dict)

    def close(self, name: str) -> None:
        """Keep what a stage took; the next one's peak begins at what is left of it."""
        self.stages[name] = memory_now()
        Path("/proc/self/clear_refs").write_text(SET_PEAK_BACK)

    def save(self) -> None:
        """Write everything, with what came after the last stage."""
        self.close("the end")
        self.path.write_text(json.dumps({n: asdict(m) for n, m in self.stages.items()}))


def main() -> None:
    """Run `mmsr-export` by the arguments after the first, which says where the numbers go."""
    ledger = Ledger(path=Path(sys.argv.pop(1)))
    atexit.register(ledger.save)

    class WatchedStages(build.Stages):
        @contextmanager
        def stage(self, name: str) -> Iterator[None]:
            """Close what came before, and the stage when it ends."""
            if not ledger.stages:
                ledger.close(OPENING)
            with super().stage(name):
                yield
            ledger.close(name)

    with patch.object(build, "Stages", WatchedStages):
        cli.main()
