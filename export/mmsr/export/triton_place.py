"""Where Triton models are made, and how they come to where a running Triton looks.

    DIR/<model>/ ...                  what Triton sees
    DIR/.lock                         locked by whoever changes it
    DIR/../.<DIR>.new-*/<model>/ ...  being made; left by a killed process: swept

A model is made whole beside DIR and comes by rename: its folder if it is new, else its version,
after the configuration. What leaves goes by rename as well, before it is removed.
"""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmsr.bundle.errors import BundleError
from mmsr.bundle.files import sync_directory
from mmsr.bundle.locks import exclusive, exclusive_at_once

CONFIG = "config.pbtxt"
WARM_UP = "warmup"
FIRST = "1"  # the version that a model is made with
KEPT_VERSIONS = 2  # Triton serves the newest; the one before may still be loaded
VERSION = re.compile(r"[1-9][0-9]*")
LOCK = ".lock"  # of DIR; Triton looks at folders alone
MARK = ".lock"  # ends the name of the file that whoever works in a folder beside DIR has locked


def versions(model: Path) -> list[int]:
    """Return the versions in a model's folder, the newest last."""
    if not model.is_dir():
        return []
    return sorted(int(path.name) for path in model.iterdir() if VERSION.fullmatch(path.name))


@contextmanager
def workshop(target: Path) -> Iterator[Path]:
    """Yield an empty folder from which a rename reaches into `target`, removed at the end.

    What killed processes have left of theirs is removed first. `target` itself is not touched.
    """
    if target.exists() and not target.is_dir():
        raise BundleError(f"{target} is a file; a Triton model repository is a folder")
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.parent
    if target.is_dir() and target.stat().st_dev != beside.stat().st_dev:
        beside = target  # a file system of its own: Triton will say that this is no model
    prefix = f".{target.name}.new-"
    _sweep(beside, prefix)
    with _marked(beside, prefix) as folder:
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _marked(beside: Path, prefix: str) -> Iterator[Path]:
    """Yield the path of a new folder, whose mark is there and locked before the folder is."""
    while True:
        folder = beside / f"{prefix}{secrets.token_hex(8)}"
        mark = folder.with_name(folder.name + MARK)
        with exclusive(mark):
            if not mark.exists():
                continue  # swept between being made and being locked
            try:
                yield folder
            finally:
                mark.unlink(missing_ok=True)
            return


def _sweep(beside: Path, prefix: str) -> None:
    for mark in beside.glob(f"{prefix}*{MARK}"):
        # Locked: its owner is at work. Not there: the owner, or another sweeper, is done.
        with suppress(BlockingIOError, FileNotFoundError), exclusive_at_once(mark):
            shutil.rmtree(mark.with_suffix(""), ignore_errors=True)
            mark.unlink()


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of the model repository `target`, which is made if it is not there."""
    target.mkdir(parents=True, exist_ok=True)
    with exclusive(target / LOCK):
        yield


def seal(made: Path) -> None:
    """Bring a finished model to the disk; another user may run Triton."""
    for path in [made, *made.rglob("*")]:
        if path.is_dir():
            os.chmod(path, 0o755)  # noqa: S103
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def move_in(made: Path, model: Path) -> int:
    """Move a finished model to its place, as its next version; return that. Call it `locked`.

    `made` is in a `workshop`; old versions end there.
    """
    if not model.exists():  # a model is looked for as soon as there is a folder: whole at once
        os.rename(made, model)
        _sync(model.parent)
        return int(FIRST)
    (model / WARM_UP).mkdir(exist_ok=True)
    for path in (made / WARM_UP).iterdir():
        os.replace(path, model / WARM_UP / path.name)
    if not _same_text(made / CONFIG, model / CONFIG):
        os.replace(made / CONFIG, model / CONFIG)
    before = versions(model)
    number = before[-1] + 1 if before else int(FIRST)
    os.rename(made / FIRST, model / str(number))
    _sync(model)
    for old in before[: -(KEPT_VERSIONS - 1)]:
        os.rename(model / str(old), made / f"old-{old}")  # never seen half removed
    return number


def _same_text(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()


def _sync(folder: Path) -> None:
    with suppress(OSError):  # object storage that is mounted may not know it
        sync_directory(folder)
