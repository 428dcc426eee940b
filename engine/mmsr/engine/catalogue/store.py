"""Keeps the live catalogue in SQLite: what was written is there after kill -9 and a power cut.

Content and frozen features, never rows of a bundle's tables. Knows nothing of models or requests.
One process has it open, any of its threads may call; reads do not wait for writes.
"""

import json
import logging
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from mmsr.engine.catalogue.records import Content, FeatureKey, Floats, Record, Write
from mmsr.engine.errors import StoreDamaged, StoreFailed

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
APPLICATION_ID = 0x4D4D5352  # "MMSR": no other program's database is taken for one of these
MOST_IDS = 500  # of one query; SQLite before 3.32 allows 999 variables
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE items (
    item_id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    content TEXT,           -- JSON: title, description, brand, categories; null: the bundle's
    image BLOB NOT NULL,    -- SHA-256 of the image file or of the given feature, or empty
    text BLOB NOT NULL,     -- SHA-256 of the given feature, or empty
    available INTEGER NOT NULL,
    popularity INTEGER,
    deleted INTEGER NOT NULL,
    written_s REAL NOT NULL
);
CREATE INDEX items_by_version ON items (version);
CREATE TABLE features (
    item_id TEXT NOT NULL,
    modality TEXT NOT NULL,
    encoder TEXT NOT NULL,
    content BLOB NOT NULL,
    vector BLOB NOT NULL,   -- float32, little-endian
    PRIMARY KEY (item_id, modality, encoder)
) WITHOUT ROWID;
CREATE TABLE images (item_id TEXT PRIMARY KEY, version INTEGER NOT NULL, file BLOB NOT NULL);
INSERT INTO meta VALUES ('version', 0), ('image_bytes', 0);
"""
COLUMNS = "item_id, version, content, image, text, available, popularity, deleted, written_s"


class CatalogueStore(Protocol):
    """What the live catalogue asks of whatever keeps it."""

    def version(self) -> int:
        """Return the version of the last commit; 0 before the first."""

    def commit(self, writes: Sequence[Write], version: int) -> None:
        """Keep all of it or nothing; on return it is durable. `StoreFailed` if it cannot be."""

    def records(self, item_ids: Sequence[str]) -> dict[str, Record]:
        """Return the records of these ids, where there are some."""

    def changes(self, after_version: int) -> list[str]:
        """Return the ids of the records that are newer than that, oldest first."""

    def features(self, item_ids: Sequence[str]) -> dict[str, dict[FeatureKey, Floats]]:
        """Return the frozen features of these ids."""

    def image(self, item_id: str) -> bytes:
        """Return an item's image file; empty if none is kept."""

    def keep_features(
        self, item_id: str, version: int, features: Mapping[FeatureKey, Floats]
    ) -> None:
        """Add features of a record that has not changed since `version`."""

    def close(self) -> None:
        """Let go of it."""


class SqliteStore:
    """One file, WAL mode, synchronous=FULL; image files up to `image_bytes` in all."""

    def __init__(self, path: Path, image_bytes: int) -> None:
        self._path = path
        self._image_bytes = image_bytes
        self._lock: IO[str] | None = None
        self._writing = threading.Lock()
        self._reading = threading.Lock()

    def open(self) -> None:
        """Open or create the file. `StoreDamaged`: it is none, is damaged, or is in use."""
        self._take_lock()
        try:
            self._writer = self._connect()
            with self._said(StoreDamaged, "opened"):
                self._prepare()
            self._reader = self._connect()
        except StoreDamaged:
            self._release()
            raise

    def version(self) -> int:
        """Return the version of the last commit; 0 before the first."""
        [(version,)] = self._read("SELECT value FROM meta WHERE key = 'version'", ())
        return int(version)

    def commit(self, writes: Sequence[Write], version: int) -> None:
        """Keep all of it or nothing; on return it is durable. `StoreFailed` if it cannot be."""
        with self._transaction() as db:
            for write in writes:
                self._put(db, write)
            db.execute("UPDATE meta SET value = ? WHERE key = 'version'", (version,))
            self._bound_images(db)

    def records(self, item_ids: Sequence[str]) -> dict[str, Record]:
        """Return the records of these ids, where there are some."""
        rows = self._by_id(f"SELECT {COLUMNS} FROM items WHERE item_id IN", item_ids)  # noqa: S608
        return {row[0]: _record(row) for row in rows}

    def changes(self, after_version: int) -> list[str]:
        """Return the ids of the records that are newer than that, oldest first."""
        query = "SELECT item_id FROM items WHERE version > ? ORDER BY version, item_id"
        return [row[0] for row in self._read(query, (after_version,))]

    def features(self, item_ids: Sequence[str]) -> dict[str, dict[FeatureKey, Floats]]:
        """Return the frozen features of these ids."""
        columns = "item_id, modality, encoder, content, vector"
        found: dict[str, dict[FeatureKey, Floats]] = {}
        query = f"SELECT {columns} FROM features WHERE item_id IN"  # noqa: S608
        for row in self._by_id(query, item_ids):
            item_id, modality, encoder, content, vector = row
            values = np.frombuffer(vector, "<f4")
            found.setdefault(item_id, {})[FeatureKey(modality, encoder, content)] = values
        return found

    def image(self, item_id: str) -> bytes:
        """Return an item's image file; empty if none is kept."""
        found = self._read("SELECT file FROM images WHERE item_id = ?", (item_id,))
        return bytes(found[0][0]) if found else b""

    def keep_features(
        self, item_id: str, version: int, features: Mapping[FeatureKey, Floats]
    ) -> None:
        """Add features of a record that has not changed since `version`."""
        with self._transaction() as db:
            found = db.execute("SELECT version FROM items WHERE item_id = ?", (item_id,)).fetchone()
            if found == (version,):
                _put_features(db, item_id, features)

    def close(self) -> None:
        """Let go of the file."""
        if self._lock is None:
            return
        self._reader.close()
        self._writer.close()  # the last one: it folds the log into the file
        self._release()

    def _take_lock(self) -> None:
        path = self._path.with_name(f"{self._path.name}.lock")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = path.open("a")
            flock(self._lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            self._release()
            raise StoreDamaged(
                f"catalogue {self._path} is in use by another server; give each its own"
            ) from None
        except OSError as error:
            raise StoreDamaged(f"catalogue {self._path}: {error.strerror}") from None

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _connect(self) -> sqlite3.Connection:
        # Each connection has a lock, so that it is used by one thread at a time.
        with self._said(StoreDamaged, "opened"):
            return sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)

    def _prepare(self) -> None:
        db = self._writer
        [(application,)] = db.execute("PRAGMA application_id")
        [(schema,)] = db.execute("PRAGMA user_version")
        [(tables,)] = db.execute("SELECT count(*) FROM sqlite_master")
        is_new = (application, schema, tables) == (0, 0, 0)
        if not is_new and application != APPLICATION_ID:
            raise StoreDamaged(f"{self._path} is no catalogue of mmsr-serve; give another path")
        if not is_new and schema != SCHEMA_VERSION:
            raise StoreDamaged(
                f"catalogue {self._path} has schema {schema}, this release reads {SCHEMA_VERSION}; "
                "serve it with the release that wrote it"
            )
        [(mode,)] = db.execute("PRAGMA journal_mode = WAL")
        if mode != "wal":
            raise StoreDamaged(
                f"catalogue {self._path}: its file system cannot keep a write-ahead log (SQLite "
                f"offers {mode!r}); put it on a local disk"
            )
        db.execute("PRAGMA synchronous = FULL")
        if is_new:
            db.executescript(
                f"BEGIN;{SCHEMA}PRAGMA application_id = {APPLICATION_ID};"
                f"PRAGMA user_version = {SCHEMA_VERSION};COMMIT;"
            )
        found = [row[0] for row in db.execute("PRAGMA quick_check(1)")]
        if found != ["ok"]:
            raise StoreDamaged(
                f"catalogue {self._path} is damaged ({found[0]}); bring it back from a copy, or "
                "move it away to start with the bundle's items alone"
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing, self._said(StoreFailed, "written"):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            finally:
                if self._writer.in_transaction:  # it failed
                    self._writer.execute("ROLLBACK")

    @contextmanager
    def _said(self, kind: type[StoreDamaged] | type[StoreFailed], done: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise kind(f"catalogue {self._path} cannot be {done}: {error}") from None

    def _put(self, db: sqlite3.Connection, write: Write) -> None:
        record = write.record
        marks = ", ".join("?" * 9)
        query = f"REPLACE INTO items ({COLUMNS}) VALUES ({marks})"  # noqa: S608
        db.execute(query, _row(record))
        if write.features is None:
            return
        db.execute("DELETE FROM features WHERE item_id = ?", (record.item_id,))
        _put_features(db, record.item_id, write.features)
        self._drop_images(db, "item_id = ?", record.item_id)
        if write.image:
            row = (record.item_id, record.version, write.image)
            db.execute("INSERT INTO images VALUES (?, ?, ?)", row)
            _count_images(db, len(write.image))

    def _bound_images(self, db: sqlite3.Connection) -> None:
        """Drop the oldest image files as long as there are too many bytes of them."""
        while (total := _image_bytes(db)) > self._image_bytes:
            [(oldest,)] = db.execute("SELECT min(version) FROM images")
            self._drop_images(db, "version = ?", oldest)
            log.warning(
                "catalogue %s: image files take %d bytes, at most %d are kept; the oldest are "
                "dropped (their features stay)",
                self._path,
                total,
                self._image_bytes,
            )

    def _drop_images(self, db: sqlite3.Connection, which: str, value: object) -> None:
        # `which` is one of two conditions in this file.
        query = f"SELECT total(length(file)) FROM images WHERE {which}"  # noqa: S608
        [(size,)] = db.execute(query, (value,))
        if size:
            db.execute(f"DELETE FROM images WHERE {which}", (value,))  # noqa: S608
            _count_images(db, -int(size))

    def _by_id(self, query: str, item_ids: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        for begin in range(0, len(item_ids), MOST_IDS):
            some = item_ids[begin : begin + MOST_IDS]
            yield from self._read(f"{query} ({', '.join('?' * len(some))})", some)

    def _read(self, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        with self._reading, self._said(StoreFailed, "read"):
            return self._reader.execute(query, values).fetchall()


def open_sqlite(path: Path, image_bytes: int) -> SqliteStore:
    """Open the store at `path`, or make it; see `SqliteStore.open`."""
    store = SqliteStore(path, image_bytes)
    store.open()
    return store


def _put_features(
    db: sqlite3.Connection, item_id: str, features: Mapping[FeatureKey, Floats]
) -> None:
    db.executemany(
        "REPLACE INTO features VALUES (?, ?, ?, ?, ?)",
        [(item_id, *key, np.asarray(v, "<f4").tobytes()) for key, v in features.items()],
    )


def _image_bytes(db: sqlite3.Connection) -> int:
    [(total,)] = db.execute("SELECT value FROM meta WHERE key = 'image_bytes'")
    return int(total)


def _count_images(db: sqlite3.Connection, size: int) -> None:
    db.execute("UPDATE meta SET value = value + ? WHERE key = 'image_bytes'", (size,))


def _row(record: Record) -> tuple[object, ...]:
    content = record.content
    said = None
    if content is not None:
        said = json.dumps(content[:4], ensure_ascii=False)
    return (
        record.item_id,
        record.version,
        said,
        content.image if content else b"",
        content.text if content else b"",
        record.available,
        record.popularity,
        record.deleted,
        record.written_s,
    )


def _record(row: tuple[Any, ...]) -> Record:
    item_id, version, said, image, text, available, popularity, deleted, written_s = row
    content = None
    if said is not None:
        title, description, brand, categories = json.loads(said)
        content = Content(title, description, brand, tuple(categories), image, text)
    return Record(
        item_id, version, content, bool(available), popularity, bool(deleted), float(written_s)
    )
