"""A folder of bundles and the labels that point at them.

    REPO/versions/<bundle id>/     its files immutable once there, its manifest replaced as a whole
    REPO/labels/<label>.json       which bundle the label names now, and which before
    REPO/leases/<bundle id>        empty; locked by whoever has the bundle open
    REPO/.staging-*, .trash-*      being written, being removed; left by a killed process: swept

A bundle is written into a temporary folder and renamed, and renamed before it is removed; a label
is a small file replaced by rename. So a reader sees the old or the new, never a part. Locks are
`flock`'s: a shared folder must carry them (NFS does, unless mounted with nolock).
"""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from mmsr.bundle.errors import BundleError
from mmsr.bundle.files import read_json, sync_directory, write_json
from mmsr.bundle.locks import exclusive, is_locked, shared
from mmsr.bundle.manifest import MANIFEST, Manifest, load_manifest, verify_files

BUNDLE_ID = re.compile(r"[0-9a-f]{16}")
LABEL_PATTERN = re.compile(r"[a-z][a-z0-9_-]{0,62}")
STAGING = ".staging-"  # begins the name of a folder that is being written
TRASH = ".trash-"  # begins the name of a folder that is being removed
MARK = ".lock"  # ends the name of the file that whoever works on such a folder has locked
HISTORY_LIMIT = 100  # moves of a label that are remembered


@dataclass(frozen=True, kw_only=True)
class LabelMove:
    """One position of a label."""

    bundle_id: str
    since: str  # ISO 8601, UTC
    reason: str | None = None  # why a server moved it by itself; None: somebody wanted it so

    def __post_init__(self) -> None:
        if not all(isinstance(value, str) for value in self.entry().values()):
            raise TypeError(f"expected texts, found {self.entry()}")

    def entry(self) -> dict[str, str]:
        """Return it as the label's file holds it: without what is not there."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Move:
    """A label that is to be moved, and the bundle that it must name until then."""

    label: str
    named: str | None  # None: it must not be there yet


class LabelMovedError(BundleError):
    """A label names another bundle than the one that the newcomer was judged beside."""


class Repository:
    """Bundles and labels under one folder. Safe for many readers and writers at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.versions = root / "versions"
        self.labels = root / "labels"
        self.leases = root / "leases"
        self.engines = root / "engines"

    def create(self) -> None:
        """Make the folders, if they are not there yet; never among other people's files."""
        self.require_usable()
        self.versions.mkdir(parents=True, exist_ok=True)
        self.labels.mkdir(exist_ok=True)
        self.leases.mkdir(exist_ok=True)

    def require_usable(self) -> None:
        """Raise `BundleError` unless this is a repository, or can become one."""
        if self.versions.is_dir() or not self.root.exists():
            return
        if not self.root.is_dir():
            raise BundleError(f"{self.root} is a file; a repository is a folder")
        others = [p.name for p in self.root.iterdir() if not p.name.startswith((".", "lost+found"))]
        if others and not self.versions.is_dir():  # another process may have made it just now
            raise BundleError(
                f"{self.root} is no repository and not empty (it holds {min(others)}); name a "
                "folder that is not there yet, or an empty one"
            )

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
        with ExitStack() as stack:
            with self.locked():
                self.sweep()
                folder = self._fresh_name(STAGING)
                mark = _mark_of(folder)
                stack.enter_context(exclusive(mark))  # says that somebody works on it
                folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                mark.unlink(missing_ok=True)

    def publish(self, staged: Path, to: str | Move | None = None) -> str:
        """Move a complete staged bundle to its place, and the label `to` to it; return its id.

        `LabelMovedError`, and nothing is published, where the label of a `Move` was moved since.

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
        sync_directory(staged)
        os.chmod(staged, 0o755)  # noqa: S103 (another user may serve the bundle)
        with self.locked():
            if isinstance(to, Move):
                self.require_unmoved(to)
            (self.leases / manifest.bundle_id).touch()
            if target.exists():
                _renew(target, staged, manifest)
            else:
                os.utime(staged)  # bundles are listed in the order in which they were published
                os.rename(staged, target)
            sync_directory(self.versions)
            if to is not None:
                self._point(to, manifest.bundle_id)
        return manifest.bundle_id

    def ids(self) -> list[str]:
        """Return the ids of all bundles, oldest first; damaged ones are among them."""
        self.require()
        found = []
        for folder in self.versions.iterdir():
            with suppress(FileNotFoundError):  # pruned just now
                if BUNDLE_ID.fullmatch(folder.name):
                    found.append((folder.stat().st_mtime_ns, folder.name))
        return [name for _, name in sorted(found)]

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

    def find(self, name: str) -> Path:
        """Return the folder of a bundle, called by its id or by a label that names it."""
        self.require()
        if BUNDLE_ID.fullmatch(name) and (self.versions / name).is_dir():
            return self.versions / name
        if LABEL_PATTERN.fullmatch(name) and (self.labels / f"{name}.json").is_file():
            return self.resolve(name)
        labels, ids = ", ".join(self.label_names()), ", ".join(self.ids())
        raise BundleError(
            f"{self.root} has no bundle and no label {name!r}; "
            f"labels: {labels or 'none'}; bundles: {ids or 'none'}"
        )

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

    def promote(self, bundle_id: str, to: str | Move, reason: str | None = None) -> None:
        """Point the label `to` at a bundle, remembering where it pointed, and the `reason`.

        `LabelMovedError` where the label of a `Move` was moved since.
        """
        with self.locked():
            self._point(to, self.path(bundle_id).name, reason)

    def require_unmoved(self, move: Move) -> None:
        """Raise `LabelMovedError` if the label no longer names what it was to be moved from."""
        there = self._label_path(move.label).is_file()
        now = self.history(move.label)[-1].bundle_id if there else None
        if now != move.named:
            raise LabelMovedError(
                f"label {move.label!r} names {now or 'no bundle'} now, {move.named or 'none'} when "
                "the new bundle was judged beside that; the label was not moved; export again"
            )

    def rollback(self, label: str) -> str:
        """Point `label` back at the bundle before the present one; return its id."""
        with self.locked():
            moves = self.history(label)
            if len(moves) < 2:
                raise BundleError(
                    f"label {label!r} has had no bundle but {moves[-1].bundle_id}: "
                    "nothing to roll back to"
                )
            if not (self.versions / moves[-2].bundle_id).is_dir():
                raise BundleError(
                    f"label {label!r} named {moves[-2].bundle_id} before, which was pruned since; "
                    f"promote another one: {', '.join(self.ids())}"
                )
            self._write(label, moves[:-1])
            return moves[-2].bundle_id

    def _label_path(self, label: str) -> Path:
        self.require()
        check_label(label)
        return self.labels / f"{label}.json"

    def _point(self, to: str | Move, bundle_id: str, reason: str | None = None) -> None:
        label = to.label if isinstance(to, Move) else to
        moves = self.history(label) if self._label_path(label).is_file() else []
        if moves and moves[-1].bundle_id == bundle_id:
            return
        if isinstance(to, Move):
            self.require_unmoved(to)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._write(label, [*moves, LabelMove(bundle_id=bundle_id, since=now, reason=reason)])

    def needed(self) -> dict[str, str]:
        """Return the bundles that must stay, each with the reason.

        What a label names now, and what it named last: so that it can be rolled back.
        """
        reasons: dict[str, str] = {}
        for label in self.label_names():
            now, *before = reversed(self.history(label))
            reasons[now.bundle_id] = f"{label} names it"
            for move in before[:1]:
                reasons.setdefault(move.bundle_id, f"{label} named it last")
        return reasons

    @contextmanager
    def hold(self, bundle_id: str) -> Iterator[Path]:
        """Keep a bundle from being pruned, here or on another machine; give its folder."""
        self.path(bundle_id)
        lease = self.leases / bundle_id
        with suppress(OSError):
            if not lease.is_file():  # published before there were leases
                lease.parent.mkdir(exist_ok=True)
                lease.touch()
        if not lease.is_file():  # and the repository is only to be read
            yield self.path(bundle_id)
            return
        with shared(lease):
            yield self.path(bundle_id)  # again: it may have gone while we waited

    def is_held(self, bundle_id: str) -> bool:
        """Tell whether somebody holds the bundle."""
        return is_locked(self.leases / bundle_id)

    def discard(self, bundle_id: str) -> Path | None:
        """Take a bundle out of the repository, and its engines; call it within `locked`.

        Returns the folder that the caller removes, or None for a bundle that is held or `needed`.
        """
        if bundle_id in self.needed() or self.is_held(bundle_id):
            return None
        trash = self._fresh_name(TRASH)
        trash.mkdir()
        os.rename(self.path(bundle_id), trash / "bundle")
        with suppress(FileNotFoundError):
            os.rename(self.engines / bundle_id, trash / "engines")
        (self.leases / bundle_id).unlink(missing_ok=True)
        sync_directory(self.versions)
        return trash

    def sweep(self) -> None:
        """Remove what killed processes have left behind; call it within `locked`."""
        for folder in self.root.glob(f"{STAGING}*"):
            mark = folder if folder.name.endswith(MARK) else _mark_of(folder)
            if not is_locked(mark):
                shutil.rmtree(mark.with_suffix(""), ignore_errors=True)
                mark.unlink(missing_ok=True)
        for folder in self.root.glob(f"{TRASH}*"):
            shutil.rmtree(folder, ignore_errors=True)
        for temporary in self.labels.glob(".*.tmp"):
            temporary.unlink(missing_ok=True)

    def _fresh_name(self, prefix: str) -> Path:
        return self.root / f"{prefix}{secrets.token_hex(8)}"

    def _write(self, label: str, moves: list[LabelMove]) -> None:
        kept = [move.entry() for move in moves[-HISTORY_LIMIT:]]
        write_json(self._label_path(label), {"bundle_id": kept[-1]["bundle_id"], "moves": kept})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the repository's lock, so that two movers of a label do not lose a move."""
        self.require()
        with exclusive(self.root / ".lock"):
            yield


def _mark_of(folder: Path) -> Path:
    return folder.with_name(folder.name + MARK)


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
        replace(manifest, metrics=metrics).save(staged)
        os.replace(staged / MANIFEST, target / MANIFEST)  # never a temporary file in a bundle
        sync_directory(target)
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
