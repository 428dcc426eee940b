"""Removes old bundles from a repository. Which ones must stay is the repository's own rule."""

import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.repository import Repository


@dataclass(frozen=True, kw_only=True)
class PruneReport:
    """What was removed, or would be."""

    removed: tuple[str, ...]  # oldest first
    kept: dict[str, str]  # bundle id -> why; newest first
    freed_bytes: int  # on disk: a file that a kept bundle shares by hard link frees nothing


def prune(repository: Repository, keep: int, *, dry_run: bool) -> PruneReport:
    """Remove all but the `keep` newest bundles, those that a label needs and those that are held.

    Safe beside servers, exports and other prunes: a bundle leaves `versions/` by one rename, under
    the repository's lock, and its files go afterwards.
    """
    if keep < 1:
        raise MmsrError(f"--keep {keep}: expected at least 1 bundle to keep")
    trash: list[Path] = []
    with repository.locked():
        if not dry_run:
            repository.sweep()
        kept = _kept(repository, keep)
        removed = [name for name in repository.ids() if name not in kept]
        freed = _freed_bytes(_folders(repository, removed))
        if not dry_run:
            for name in removed:
                folder = repository.discard(name)
                if folder is None:  # somebody has opened it since it was looked at
                    kept[name] = "in use"
                    continue
                trash.append(folder)
            removed = [name for name in removed if name not in kept]
            freed = _freed_bytes(trash)
    for folder in trash:
        shutil.rmtree(folder, ignore_errors=True)
    return PruneReport(removed=tuple(removed), kept=kept, freed_bytes=freed)


def _kept(repository: Repository, keep: int) -> dict[str, str]:
    """Return the bundles that stay, each with the reason, newest first."""
    ids = repository.ids()
    reasons = dict.fromkeys(ids[-keep:], f"among the {keep} newest") | repository.needed()
    reasons |= {name: "in use" for name in ids if name not in reasons and repository.is_held(name)}
    return {name: reasons[name] for name in reversed(ids) if name in reasons}


def _folders(repository: Repository, bundle_ids: Iterable[str]) -> list[Path]:
    return [
        root / name for name in bundle_ids for root in (repository.versions, repository.engines)
    ]


def _freed_bytes(folders: Iterable[Path]) -> int:
    """Return the bytes of the files under `folders` that have no link elsewhere."""
    links: Counter[tuple[int, int]] = Counter()
    wanted: dict[tuple[int, int], tuple[int, int]] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                status = path.stat()
                inode = (status.st_dev, status.st_ino)
                links[inode] += 1
                wanted[inode] = (status.st_nlink, status.st_size)
    return sum(size for inode, (count, size) in wanted.items() if links[inode] == count)
