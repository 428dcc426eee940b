"""A folder that is either whole or not there."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsr.bundle.files import sync_directory
from mmsr.training.dataset import DataError

# Everything else in a prepared folder belongs to later stages and outlives a new preparation.
WRITTEN = frozenset(
    {
        "data.json",
        "items.parquet",
        "users.parquet",
        "sequences",
        "report.json",
        "rejected.jsonl",
        "notes.jsonl",
        "source",
    }
)
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def staged_output(out: Path, force: bool) -> Iterator[Path]:
    """Yield an empty folder beside `out` that takes its place at the end of the block.

    With `force`, prepared data at `out` are replaced; what later stages keep there (features)
    moves over. Raises `DataError` before anything is done if `out` may not be written, and
    when the disk is full; `out` is then as it was.
    """
    out = Path(os.path.abspath(out))
    _check_target(out, force)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise DataError(f"cannot write to {out.parent} ({error.strerror})") from None
    try:
        yield stage
        os.chmod(stage, 0o755)  # noqa: S103 (mkdtemp gives 0700)
        _take_place(stage, out)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise DataError(f"no space left for {out}; free some or name another disk") from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def refuse_overlap(out: Path, inputs: list[Path]) -> None:
    """Raise `DataError` if an input lies inside `out`: replacing `out` would delete it."""
    target = out.resolve()
    for path in inputs:
        if path.resolve().is_relative_to(target):
            raise DataError(f"{path} lies inside {out}, which is to be written; name another OUT")


def _check_target(out: Path, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "data.json").is_file():
        raise DataError(f"{out} exists and holds no prepared data; name another folder")
    if not force:
        raise DataError(f"{out} holds prepared data already; replace them with --force")


def _take_place(stage: Path, out: Path) -> None:
    if not (out / "data.json").is_file():
        os.rename(stage, out)  # an empty folder at `out` gives way
    else:
        old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.old."))
        os.rename(out, old)
        os.rename(stage, out)
        for entry in old.iterdir():
            if entry.name not in WRITTEN:
                os.rename(entry, out / entry.name)
        shutil.rmtree(old)
    sync_directory(out.parent)
