"""The project's own source files, for tests about the project."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = ("training", "export", "engine", "proto")


def source_files(pattern: str = "*.py") -> list[Path]:
    """Return the hand-written files of the package, relative to the root."""
    found = [path for root in SOURCE_ROOTS for path in (ROOT / root / "mmsr").rglob(pattern)]
    return sorted(path.relative_to(ROOT) for path in found if "_pb2" not in path.name)
