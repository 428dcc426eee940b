"""Copies bundles and labels between a repository and object storage.

A label brings the bundle that it names and the one that it named before, so that it can be rolled
back on the other side too.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmsr.bundle.errors import BundleError
from mmsr.bundle.files import sha256_file
from mmsr.bundle.manifest import MANIFEST, FileEntry, load_manifest, verify_files
from mmsr.bundle.repository import Repository, check_label
from mmsr.export.object_store import ObjectStore

DEPTH = 2  # positions of a label that are copied: now, and before
Tell = Callable[[str, int], None]  # what is copied now, and its bytes


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What was done."""

    bundles: tuple[str, ...]  # all that are there now for these labels
    labels: dict[str, str]  # label -> bundle id
    copied_files: int = 0
    copied_bytes: int = 0
    present_files: int = 0  # were there already


def push(repository: Repository, store: ObjectStore, labels: Sequence[str], tell: Tell) -> Transfer:
    """Copy what `labels` name (all labels, if none is given) to `store`, the labels last.

    Files are hashed before they are sent; what is there already is passed over, so that a push that
    was interrupted goes on where it was.
    """
    for label in labels:
        check_label(label)
    moves = {
        label: [
            move
            for move in repository.history(label)[-DEPTH:]
            if (repository.versions / move.bundle_id).is_dir()
        ]
        for label in labels or repository.label_names()
    }
    ids = _unique(move.bundle_id for positions in moves.values() for move in positions)
    counts = [0, 0, 0]
    for bundle_id in ids:
        with repository.hold(bundle_id) as folder:
            manifest = load_manifest(folder)
            verify_files(folder, manifest)
            for name, entry in manifest.files.items():
                tell(f"{bundle_id} {name}", entry.bytes)
                _count(counts, entry, store.put_object(folder / name, entry))
            store.put_manifest(bundle_id, (folder / MANIFEST).read_bytes())
    for label, positions in moves.items():
        store.put_label(label, [move.entry() for move in positions])
    return _result(ids, {name: p[-1].bundle_id for name, p in moves.items()}, counts)


def pull(repository: Repository, store: ObjectStore, labels: Sequence[str], tell: Tell) -> Transfer:
    """Copy what `labels` name (all labels, if none is given) from `store`, and move them here.

    Every file is hashed as it arrives. A label that is here already keeps its own history: pulling
    is promoting.
    """
    for label in labels:
        check_label(label)
    wanted = {label: store.label(label)[-DEPTH:] for label in labels or store.labels()}
    if not wanted:
        raise BundleError(f"{store.url} has no labels: nothing was ever pushed there")
    repository.create()
    ids = _unique(move.bundle_id for positions in wanted.values() for move in positions)
    counts = [0, 0, 0]
    for bundle_id in ids:
        _pull_bundle(repository, store, bundle_id, counts, tell)
    for label, positions in wanted.items():
        new = label not in repository.label_names()
        for move in positions if new else positions[-1:]:
            repository.promote(move.bundle_id, label, move.reason)
    return _result(ids, {name: p[-1].bundle_id for name, p in wanted.items()}, counts)


def _pull_bundle(
    repository: Repository, store: ObjectStore, bundle_id: str, counts: list[int], tell: Tell
) -> None:
    content = store.manifest(bundle_id)
    if content is None:
        raise BundleError(f"{store.url} names bundle {bundle_id}, which is not there; push again")
    with repository.stage() as staged:
        (staged / MANIFEST).write_bytes(content)
        manifest = load_manifest(staged)
        if manifest.bundle_id != bundle_id:
            raise BundleError(
                f"{store.url}: versions/{bundle_id} holds bundle {manifest.bundle_id}; push again"
            )
        local = _local_files(repository)
        for name, entry in manifest.files.items():
            tell(f"{bundle_id} {name}", entry.bytes)
            target = staged / name
            target.parent.mkdir(parents=True, exist_ok=True)
            here = _take_local(local.get(entry.sha256, ()), entry, target)
            if not here:
                store.get_object(entry, target)
            _count(counts, entry, not here)
        repository.publish(staged)


def _local_files(repository: Repository) -> dict[str, list[Path]]:
    """Return where each content lies in the bundles that are here, by SHA-256."""
    places: dict[str, list[Path]] = {}
    for bundle_id in repository.ids():
        try:
            manifest = repository.manifest(bundle_id)
        except BundleError:
            continue  # damaged or pruned: of no use here
        for name, entry in manifest.files.items():
            places.setdefault(entry.sha256, []).append(repository.versions / bundle_id / name)
    return places


def _take_local(places: Iterable[Path], entry: FileEntry, target: Path) -> bool:
    """Link or copy one of `places` to `target` if its content is still what it was."""
    for place in places:
        try:
            os.link(place, target)
        except FileNotFoundError:
            continue
        except OSError:  # the file system has no hard links
            shutil.copyfile(place, target)
        if sha256_file(target) == entry.sha256:
            return True
        target.unlink()
    return False


def _unique(bundle_ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(bundle_ids))


def _count(counts: list[int], entry: FileEntry, copied: bool) -> None:
    if copied:
        counts[0] += 1
        counts[1] += entry.bytes
    else:
        counts[2] += 1


def _result(ids: tuple[str, ...], labels: dict[str, str], counts: list[int]) -> Transfer:
    files, copied, present = counts
    return Transfer(
        bundles=ids,
        labels=labels,
        copied_files=files,
        copied_bytes=copied,
        present_files=present,
    )
