"""What a run made, reused and could not use: for the terminal and for `report.json`."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmsr.bundle.files import atomic_path, write_json


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """An item whose image could not be used."""

    item_id: str
    image: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ModalityReport:
    """Counts of one modality. Equal contents are encoded once, so counts of contents may be
    smaller than counts of items.
    """

    items: int
    present: int  # items that have a feature now
    encoded: int  # contents encoded in this run
    cached: int  # contents whose features were there already
    seconds: float  # of the encoding stage, loading and decoding included
    rejected: list[Rejected] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Return contents encoded a second."""
        return self.encoded / self.seconds if self.encoded else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the rejected items as counts by reason."""
        raw = asdict(self) | {"rate": round(self.rate, 2), "seconds": round(self.seconds, 2)}
        reasons = Counter(rejected.reason for rejected in self.rejected)
        return raw | {"rejected": dict(reasons.most_common())}


@dataclass(frozen=True, kw_only=True)
class FeaturesReport:
    """Both modalities of one run."""

    image: ModalityReport
    text: ModalityReport
    freed_bytes: int | None = None  # of the cache; None: it was not pruned

    def save(self, folder: Path) -> None:
        """Write `report.json` and, a line for each rejected item, `rejected.jsonl`."""
        modalities = {"image": self.image, "text": self.text}
        write_json(folder / "report.json", {k: v.to_json() for k, v in modalities.items()})
        lines = [
            json.dumps({"modality": name, **asdict(rejected)}, ensure_ascii=False) + "\n"
            for name, modality in modalities.items()
            for rejected in modality.rejected
        ]
        with atomic_path(folder / "rejected.jsonl") as temporary:
            temporary.write_text("".join(lines))
