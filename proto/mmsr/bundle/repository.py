"""A folder of bundles and the labels that point at them.

    REPO/versions/<bundle id>/     its files immutable once there
    REPO/labels/<label>.json       which bundle the label names now, and which before

A bundle is written into a temporary folder and renamed; a label is a small file replaced by
rename. So a reader sees the old or the new, never a part.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from mmsr.bundle.errors import BundleError
from mmsr.bundle.files import read_json, sync_directory, write_json
from mmsr.bundle.manifest import MANIFEST, Manifest, load_manifest, verify_files

BUNDLE_ID = re.compile(r"[0-9a-f]{16}")
LABEL_PATTERN = re.compile(r"[a-z][a-z0-9_-]{0,62}")
STAGING = ".staging-"  # begins the name of a folder that is being written
HISTORY_LIMIT = 100  # moves of a label that are remembered


@dataclass(frozen=True, kw_only=True)
class LabelMove:
    """One position of a label."""

    bundle_id: str
    since: str  # ISO 8601, UTC


class Repository:
    """Bundles and labels under one folder. Safe for many readers and writers at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.versions = root / "versions"
        self.labels = root / "labels"

    def create(self) -> None:
        """Make the folders, if they are not there yet."""
        self.versions.mkdir(parents=True, exist_ok=True)
        self.labels.mkdir(exist_ok=True)

    def require(self) -> None:
        """Raise `BundleError` unless this is a repository."""
        if not self.versions.is_dir():
            raise BundleError(
                f"{self.root} is not a repository (no versions/ in it); "
                f"make one with: mmsr-export RUN --repository {self.root}"
            )

    @contextmanager
    def stage(self) -> Iterator[Path]:
        """Yield an empty folder on the repository's file system, removed at the end.

        What stagers that were killed have left behind is removed first.
        """
        self.create()
        with self._locked():
            self._sweep()
            folder = Path(tempfile.mkdtemp(dir=self.root, prefix=STAGING))
            mark = os.open(folder, os.O_RDONLY)
            flock(mark, LOCK_EX)  # says that somebody works on it
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(mark)

    def publish(self, staged: Path) -> str:
        """Move a complete staged bundle to its place; return its id.

        The same content published again is the same bundle: its files stay, but for damaged ones,
        and its manifest (which says more than the id covers: metrics, provenance) is replaced.
        Metrics that the new one does not have are kept.
        """
        manifest = load_manifest(staged)
        target = self.versions / manifest.bundle_id
        for path in staged.rglob("*"):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        os.chmod(staged, 0o755)  # mkdtemp gives 0700; another user may serve the bundle
        with self._locked():
            if target.exists():
                _renew(target, staged, manifest)
            else:
                os.rename(staged, target)
        sync_directory(self.versions)
        return manifest.bundle_id

    def ids(self) -> list[str]:
        """Return the ids of all bundles, oldest first; damaged ones are among them."""
        self.require()
        folders = [p for p in self.versions.iterdir() if BUNDLE_ID.fullmatch(p.name)]
        return [p.name for p in sorted(folders, key=lambda p: (p.stat().st_mtime, p.name))]

    def path(self, bundle_id: str) -> Path:
        """Return the folder of a bundle; `BundleError` lists what there is."""
        self.require()
        folder = self.versions / bundle_id
        if not BUNDLE_ID.fullmatch(bundle_id) or not folder.is_dir():
            known = ", ".join(self.ids()) or "none"
            raise BundleError(f"no bundle {bundle_id!r} in {self.root}; there are: {known}")
        return folder

    def manifest(self, bundle_id: str) -> Manifest:
        """Return the manifest of a bundle."""
        return load_manifest(self.path(bundle_id))

    def resolve(self, label: str) -> Path:
        """Return the folder of the bundle that `label` names."""
        return self.path(self.history(label)[-1].bundle_id)

    def label_names(self) -> list[str]:
        """Return the labels that there are."""
        self.require()
        return sorted(p.stem for p in self.labels.glob("*.json"))

    def history(self, label: str) -> list[LabelMove]:
        """Return the label's positions, the present one last."""
        path = self._label_path(label)
        if not path.is_file():
            known = ", ".join(self.label_names()) or "none"
            raise BundleError(f"no label {label!r} in {self.root}; there are: {known}")
        try:
            moves = [LabelMove(**move) for move in read_json(path, "a label")["moves"]]
        except (KeyError, TypeError) as error:
            raise BundleError(f"{path} is damaged ({error!r}); promote a bundle again") from None
        if not moves:
            raise BundleError(f"{path} names no bundle; promote one")
        return moves

    def promote(self, bundle_id: str, label: str) -> None:
        """Point `label` at a bundle, remembering where it pointed."""
        self.path(bundle_id)
        with self._locked():
            moves = self.history(label) if self._label_path(label).is_file() else []
            if moves and moves[-1].bundle_id == bundle_id:
                return
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._write(label, [*moves, LabelMove(bundle_id=bundle_id, since=now)])

    def rollback(self, label: str) -> str:
        """Point `label` back at the bundle before the present one; return its id."""
        with self._locked():
            moves = self.history(label)
            if len(moves) < 2:
                raise BundleError(
                    f"label {label!r} has had no bundle but {moves[-1].bundle_id}: "
                    "nothing to roll back to"
                )
            self.path(moves[-2].bundle_id)
            self._write(label, moves[:-1])
            return moves[-2].bundle_id

    def _label_path(self, label: str) -> Path:
        self.require()
        check_label(label)
        return self.labels / f"{label}.json"

    def _sweep(self) -> None:
        """Remove staging folders whose stager is gone: the kernel has let go of their locks."""
        for folder in self.root.glob(f"{STAGING}*"):
            with suppress(FileNotFoundError, BlockingIOError):  # just removed; somebody's
                mark = os.open(folder, os.O_RDONLY)
                try:
                    flock(mark, LOCK_EX | LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(mark)

    def _write(self, label: str, moves: list[LabelMove]) -> None:
        kept = [asdict(move) for move in moves[-HISTORY_LIMIT:]]
        write_json(self._label_path(label), {"bundle_id": kept[-1]["bundle_id"], "moves": kept})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the repository's lock, so that two movers of a label do not lose a move."""
        self.require()
        with (self.root / ".lock").open("w") as lock:
            flock(lock, LOCK_EX)
            yield


def check_label(label: str) -> None:
    """Raise `BundleError` unless `label` may be one."""
    if not LABEL_PATTERN.fullmatch(label):
        raise BundleError(
            f"label {label!r} is not allowed; expected a lower-case letter, then at most 62 "
            "letters, digits, '-' or '_'"
        )


def _renew(target: Path, staged: Path, manifest: Manifest) -> None:
    """Bring a published bundle into the state of `staged`, which has the same id.

    File by file, each by one rename, the manifest last: a label that names it always names a
    bundle, and whoever has its files open keeps them.
    """
    if _is_whole(target):
        metrics = manifest.metrics or load_manifest(target).metrics
        replace(manifest, metrics=metrics).save(target)
        return
    for name in [*manifest.files, MANIFEST]:
        path = target / name
        if path.is_dir():
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged / name, path)
        sync_directory(path.parent)
    known = {target / name for name in [*manifest.files, MANIFEST]}
    for path in target.rglob("*"):
        if path.is_file() and path not in known:
            path.unlink()


def _is_whole(bundle: Path) -> bool:
    try:
        verify_files(bundle, load_manifest(bundle))
    except BundleError:
        return False
    return True
