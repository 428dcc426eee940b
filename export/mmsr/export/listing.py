"""What a repository holds, one line a bundle. Reads manifests and labels, no other file."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import MANIFEST, Manifest
from mmsr.bundle.repository import Repository


@dataclass(frozen=True, kw_only=True)
class Line:
    """One bundle; all but its id, age and labels are empty where its manifest is unreadable."""

    bundle_id: str
    published: str  # ISO 8601, UTC: when its manifest came to this repository
    age_s: float
    items: int | None = None
    bytes: int | None = None  # of its files; hard links are not told apart
    metrics: dict[str, float]
    overlap: float | None = None  # of the parity report, on the probe set
    labels: tuple[str, ...]
    problem: str | None = None


def list_lines(repository: Repository, now: datetime) -> list[Line]:
    """Return the bundles, oldest first."""
    labels: dict[str, list[str]] = {}
    for name in repository.label_names():
        labels.setdefault(repository.history(name)[-1].bundle_id, []).append(name)
    lines = []
    for bundle_id in repository.ids():
        try:
            lines.append(_line(repository, bundle_id, tuple(labels.get(bundle_id, ())), now))
        except FileNotFoundError:  # pruned just now
            continue
    return lines


def _line(repository: Repository, bundle_id: str, labels: tuple[str, ...], now: datetime) -> Line:
    folder = repository.versions / bundle_id
    file = folder / MANIFEST
    when = datetime.fromtimestamp((file if file.is_file() else folder).stat().st_mtime, UTC)
    published, age_s = when.isoformat(timespec="seconds"), (now - when).total_seconds()
    try:
        manifest = repository.manifest(bundle_id)
    except BundleError as error:
        return Line(
            bundle_id=bundle_id,
            published=published,
            age_s=age_s,
            metrics={},
            labels=labels,
            problem=str(error),
        )
    return Line(
        bundle_id=bundle_id,
        published=published,
        age_s=age_s,
        items=manifest.tables.items,
        bytes=sum(entry.bytes for entry in manifest.files.values()),
        metrics=manifest.metrics,
        overlap=overlap_of(manifest),
        labels=labels,
    )


def overlap_of(manifest: Manifest) -> float | None:
    """Return overlap@20 of the parity report, None where there is none."""
    sequence: Any = manifest.parity.get("sequence")
    overlap = sequence.get("overlap") if isinstance(sequence, dict) else None
    return float(overlap) if isinstance(overlap, int | float) else None


def age(seconds: float) -> str:
    """Return a duration in its largest unit: "3 d"."""
    for unit, length_s in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds // length_s:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def size(count: float) -> str:
    """Return a number of bytes in its largest binary unit: "63 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
