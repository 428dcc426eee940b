"""Finds a shop's two files in a folder."""

from dataclasses import dataclass
from pathlib import Path

from mmsr.training.dataset import DataError

FORMS = (".parquet", ".csv", ".jsonl")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the input lies."""

    items: Path
    interactions: Path
    image_root: Path  # image paths in the items file are relative to it


def find_sources(
    folder: Path,
    items: Path | None = None,
    interactions: Path | None = None,
    image_root: Path | None = None,
) -> Sources:
    """Return the files of `folder`, or those that are named instead.

    Raises `DataError` unless there is exactly one of each.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one with interactions and items files")
    root = (image_root or folder).resolve()
    if not root.is_dir():
        raise DataError(f"image root {root} is no folder; name the one that image paths start at")
    return Sources(
        items=items or _only_one(folder, "items"),
        interactions=interactions or _only_one(folder, "interactions"),
        image_root=root,
    )


def _only_one(folder: Path, stem: str) -> Path:
    found = [path for form in FORMS if (path := folder / f"{stem}{form}").is_file()]
    if len(found) == 1:
        return found[0]
    names = " and ".join(path.name for path in found) or f"no {stem} file"
    advice = f"name one with --{stem}" if found else f"put it there or name it with --{stem}"
    raise DataError(f"{folder} holds {names}; expected one {stem}{{{','.join(FORMS)}}}; {advice}")
