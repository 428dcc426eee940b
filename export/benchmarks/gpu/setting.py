"""What a run of gpu-check measures, and how a section tells what it found. Knows no backend."""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

K = 20  # results
LENGTH = 50  # history items


class SectionSkippedError(Exception):
    """A section cannot run here; its text says why."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The sizes of one run. The same code runs at tiny sizes on a CPU."""

    work: Path  # graphs, plans and results of this run
    device: str = "cuda"
    quick: bool = False
    deadline_s: float = 0.0  # of the section, by time.monotonic; 0: none

    @property
    def cuda(self) -> bool:
        """Whether this measures a GPU."""
        return self.device == "cuda"

    @property
    def items(self) -> tuple[int, ...]:
        """Catalogue sizes; of the quick ones the larger is large enough for the chunked top K."""
        return (200, 46_000) if self.quick else (12_000, 1_000_000, 10_000_000)

    @property
    def batches(self) -> tuple[int, ...]:
        """Requests a call."""
        return (1, 4) if self.quick else (1, 8, 32, 128, 256)

    @property
    def width(self) -> int:
        """D of the model."""
        return 16 if self.quick else 64

    @property
    def cell_s(self) -> float:
        """Seconds that one cell of a table is measured for."""
        return 0.02 if self.quick else 0.4

    def time_left(self) -> float:
        """Return the seconds that the section has left."""
        return self.deadline_s - time.monotonic() if self.deadline_s else float("inf")


@dataclass(kw_only=True)
class Findings:
    """What a section has found so far; on disk at once, so that a killed section loses nothing."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    cells: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def put(self, name: str, value: Any) -> None:
        """Keep one value."""
        self.values[name] = value
        self.save()

    def cell(self, values: dict[str, Any]) -> None:
        """Keep one line of the section's table."""
        self.cells.append(values)
        self.save()

    def note(self, text: str) -> None:
        """Keep one remark: what was left out, and why."""
        self.notes.append(text)
        self.save()

    def save(self) -> None:
        """Write everything."""
        temporary = self.path.with_suffix(".tmp")
        content = {k: v for k, v in asdict(self).items() if k != "path"}
        temporary.write_text(json.dumps(content))
        os.replace(temporary, self.path)
