"""Bundles and labels in object storage, through fsspec. Knows no local repository.

URL/objects/<aa>/<sha-256>            every file, by its content: one copy for all bundles
URL/versions/<bundle id>/manifest.json   written after all of its objects
URL/labels/<label>.json               written after the manifests that it names
"""

import json
from pathlib import Path
from typing import Any

from mmsr.bundle.errors import BundleError, MmsrError
from mmsr.bundle.files import sha256_file
from mmsr.bundle.manifest import MANIFEST, FileEntry
from mmsr.bundle.repository import BUNDLE_ID, LABEL_PATTERN, LabelMove

PARTIAL = ".partial"  # ends the name of a small file that is being written


class ObjectStore:
    """One URL of object storage."""

    def __init__(self, url: str, filesystem: Any, root: str) -> None:
        self.url = url
        self._filesystem = filesystem
        self._root = root.rstrip("/")

    def put_object(self, source: Path, entry: FileEntry) -> bool:
        """Upload a file unless it is there whole; tell whether it was uploaded.

        An upload that was cut short has another size and is made again.
        """
        target = self._object(entry.sha256)
        if self._size(target) == entry.bytes:
            return False
        self._filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._filesystem.put_file(str(source), target)
        found = self._size(target)
        if found != entry.bytes:
            raise MmsrError(
                f"{self.url}: {target} has {found} bytes after the upload of {entry.bytes}; "
                "push again"
            )
        return True

    def get_object(self, entry: FileEntry, target: Path) -> None:
        """Download a file; `BundleError` unless its content is what its name says."""
        source = self._object(entry.sha256)
        size = self._size(source)
        if size != entry.bytes:
            what = "is missing" if size is None else f"has {size} bytes, expected {entry.bytes}"
            raise BundleError(f"{self.url}: {source} {what}; push the bundle again")
        target.parent.mkdir(parents=True, exist_ok=True)
        self._filesystem.get_file(source, str(target))
        found = sha256_file(target)
        if found != entry.sha256:
            raise BundleError(
                f"{self.url}: the content of {source} has SHA-256 {found[:12]}…, not that of its "
                "name; remove it there and push the bundle again"
            )

    def manifest(self, bundle_id: str) -> bytes | None:
        """Return the bytes of a bundle's manifest; None if the bundle is not there."""
        return self._read(f"{self._root}/versions/{bundle_id}/{MANIFEST}")

    def put_manifest(self, bundle_id: str, content: bytes) -> None:
        """Say that a bundle is complete."""
        self._write(f"{self._root}/versions/{bundle_id}/{MANIFEST}", content)

    def labels(self) -> list[str]:
        """Return the labels that there are."""
        names = [name.rpartition("/")[2] for name in self._list(f"{self._root}/labels")]
        stems = [name.removesuffix(".json") for name in names if name.endswith(".json")]
        return sorted(name for name in stems if LABEL_PATTERN.fullmatch(name))

    def label(self, name: str) -> list[LabelMove]:
        """Return a label's positions: last the present one, before it the one before."""
        content = self._read(f"{self._root}/labels/{name}.json")
        if content is None:
            known = ", ".join(self.labels()) or "none"
            raise BundleError(f"no label {name!r} at {self.url}; there are: {known}")
        try:
            moves = [LabelMove(**move) for move in json.loads(content)["moves"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BundleError(
                f"{self.url}: label {name!r} is damaged ({error!r}); push it again"
            ) from None
        ids = [move.bundle_id for move in moves]
        if not ids or not all(BUNDLE_ID.fullmatch(i) for i in ids):
            raise BundleError(f"{self.url}: label {name!r} names {ids}; push it again")
        return moves

    def put_label(self, name: str, moves: list[dict[str, str]]) -> None:
        """Point a label at the last of `moves`."""
        value = {"bundle_id": moves[-1]["bundle_id"], "moves": moves}
        content = json.dumps(value, indent=2).encode() + b"\n"
        self._write(f"{self._root}/labels/{name}.json", content)

    def _object(self, sha256: str) -> str:
        return f"{self._root}/objects/{sha256[:2]}/{sha256}"

    def _size(self, path: str) -> int | None:
        try:
            return int(self._filesystem.info(path)["size"])
        except FileNotFoundError:
            return None

    def _read(self, path: str) -> bytes | None:
        try:
            return bytes(self._filesystem.cat_file(path))
        except FileNotFoundError:
            return None

    def _write(self, path: str, content: bytes) -> None:
        """Replace a small file as a whole, also where writing is not atomic but moving is."""
        if self._read(path) == content:
            return
        self._filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._filesystem.pipe_file(path + PARTIAL, content)
        self._filesystem.mv(path + PARTIAL, path)

    def _list(self, folder: str) -> list[str]:
        try:
            return [str(name) for name in self._filesystem.ls(folder, detail=False)]
        except FileNotFoundError:
            return []


def open_store(url: str) -> ObjectStore:
    """Open a URL of a kind that fsspec knows: s3://, gs://, abfs://, file://, a path.

    Credentials and endpoints come from the backend's own environment variables, or fsspec's.
    """
    import fsspec

    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except ImportError as error:  # the backend is a package of its own: s3fs, gcsfs, adlfs
        raise MmsrError(f"{without_secret(url)}: {error}") from None
    except ValueError as error:  # a kind of URL that nobody knows
        shown = without_secret(url)
        raise MmsrError(f"{shown}: {error}; expected s3://, gs://, abfs://, file:// …") from None
    filesystem.invalidate_cache()  # another process may have written since this one looked
    return ObjectStore(without_secret(url), filesystem, str(root))


def without_secret(url: str) -> str:
    """Return a URL as messages may show it: without a name and a password, should it have them."""
    scheme, mark, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    if not mark or "@" not in host:
        return url
    return f"{scheme}://…@{host.rpartition('@')[2]}{slash}{path}"
