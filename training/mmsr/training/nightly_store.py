"""The folder of `mmsr-train nightly`: results by the content they follow from, and what was done.

WORK/data/<key>/            prepared data and their features
WORK/runs/<key>/            the run that was validated and tested
WORK/finals/<key>/          the same recipe trained on everything: what to export
WORK/latest                 symbolic link to the newest of the finals
WORK/nights/<night>.json    which of them a night used, oldest first by name
WORK/status.json            the newest night, stage by stage, while it goes on and afterwards
WORK/.lock                  held by the night that goes on
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.files import read_json, sync_directory, write_json

KINDS = ("data", "runs", "finals")
KEY_DIGITS = 16


class NightError(MmsrError):
    """The folder of nights is not what it should be."""


class NightRunningError(NightError):
    """Another night is going on in the same folder."""

    exit_code = 4


@dataclass(kw_only=True)
class StageStatus:
    """One stage of a night, in `status.json`."""

    name: str
    state: str = "waiting"  # running, done, unchanged (nothing was to be done), failed
    seconds: float = 0.0
    summary: str = ""
    folder: str = ""


@dataclass(kw_only=True)
class NightStatus:
    """`status.json`."""

    night: str  # when it began, UTC
    process: int
    state: str = "running"  # done, failed
    exit_code: int | None = None  # while it goes on there is none
    error: str | None = None
    latest: str | None = None  # what to export
    stages: list[StageStatus] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class NightRecord:
    """`nights/<night>.json`: the folders' names."""

    night: str
    data: str
    run: str
    final: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """Where everything lies."""

    root: Path

    def place(self, kind: str, key: str) -> Path:
        """Return the folder of what follows from `key`."""
        return self.root / kind / key[:KEY_DIGITS]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; the lock of a killed night is gone with it.

        Raises `NightRunningError` if another night holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a+") as lock:
            try:
                flock(lock, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise NightRunningError(
                    f"{self.root}: another night is going on ({lock.read().strip()}); wait for it "
                    "to end, or name another --work"
                ) from None
            lock.truncate(0)
            lock.write(f"process {os.getpid()}")
            lock.flush()
            yield

    def save_status(self, status: NightStatus) -> None:
        """Write `status.json`."""
        write_json(self.root / "status.json", asdict(status))

    def records(self) -> list[NightRecord]:
        """Return the finished nights, oldest first."""
        found = []
        for path in sorted((self.root / "nights").glob("*.json")):
            raw = read_json(path, "the record of a night")
            try:
                found.append(NightRecord(**raw))
            except TypeError as error:
                raise NightError(f"{path} is damaged ({error}); delete it") from None
        return found

    def finish(self, record: NightRecord, keep: int) -> None:
        """Make a night the latest; forget all but the last `keep` and what only they used."""
        before = self.records()
        if not before or _results(before[-1]) != _results(record):
            write_json(self.root / "nights" / f"{record.night}.json", asdict(record))
        self._point_latest(record)
        kept = self.records()[-keep:]
        for old in self.records()[:-keep]:
            (self.root / "nights" / f"{old.night}.json").unlink()
        used = {name for record in kept for name in _results(record)}
        for kind in KINDS:
            for folder in (self.root / kind).iterdir():
                if f"{kind}/{folder.name}" not in used:
                    shutil.rmtree(folder)

    def _point_latest(self, record: NightRecord) -> None:
        link, temporary = self.root / "latest", self.root / ".latest.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path("finals") / record.final)
        os.replace(temporary, link)
        sync_directory(self.root)


def _results(record: NightRecord) -> tuple[str, str, str]:
    return f"data/{record.data}", f"runs/{record.run}", f"finals/{record.final}"


def mark(folder: Path, stage: str, stamp: Any) -> None:
    """Write that a stage is done in `folder`, and from what."""
    write_json(_marker(folder, stage), stamp)


def is_marked(folder: Path, stage: str, stamp: Any) -> bool:
    """Say whether a stage has been done in `folder` from just that."""
    path = _marker(folder, stage)
    if not path.is_file():
        return False
    found: Any = read_json(path, "the mark of a finished stage")
    return bool(found == json.loads(json.dumps(stamp)))


def _marker(folder: Path, stage: str) -> Path:
    return folder / f".{stage}.done.json"
