"""The store against a dict, its bounds, and what it says of files that it cannot open."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmsr.engine.catalogue.records import Content, FeatureKey, Record, Write
from mmsr.engine.catalogue.store import SqliteStore
from mmsr.engine.errors import StoreDamaged, StoreFailed

IDS = ("a", "b", "ü-1", "x' OR 1=1 --", "\N{SNOWMAN}")
LARGE = 1 << 30


def opened(path: Path, image_bytes: int = LARGE) -> SqliteStore:
    store = SqliteStore(path, image_bytes)
    store.open()
    return store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    found = opened(tmp_path / "catalogue.db")
    yield found
    found.close()


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
contents = st.builds(
    Content,
    title=texts,
    description=texts,
    brand=texts,
    categories=st.lists(texts, max_size=3).map(tuple),
    image=st.binary(max_size=4),
    text=st.binary(max_size=4),
)
records = st.builds(
    Record,
    item_id=st.sampled_from(IDS),
    version=st.just(0),
    content=st.none() | contents,
    available=st.booleans(),
    popularity=st.none() | st.integers(0, 2**63 - 1),
    deleted=st.booleans(),
    written_s=st.floats(0, 4e9),
)
vectors = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4)
keys = st.builds(
    FeatureKey, st.sampled_from(["image", "text"]), st.sampled_from(["e1", "e2"]), st.just(b"k")
)
writes = st.builds(
    Write,
    record=records,
    features=st.none() | st.dictionaries(keys, vectors.map(lambda v: np.array(v, np.float32))),
    image=st.binary(max_size=50),
)


@given(commits=st.lists(st.lists(writes, min_size=1, max_size=4), max_size=8))
@settings(
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_is_read_is_what_a_dict_would_hold_also_after_opening_anew(
    commits: list[list[Write]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("store") / "catalogue.db"
    store = opened(path)
    said: dict[str, Record] = {}
    features: dict[str, dict[FeatureKey, list[float]]] = {}
    images: dict[str, bytes] = {}
    for version, commit in enumerate(commits, start=1):
        commit = [w._replace(record=w.record._replace(version=version)) for w in commit]
        store.commit(commit, version)
        for record, found, image in commit:
            said[record.item_id] = record
            if found is not None:
                features[record.item_id] = {k: v.tolist() for k, v in found.items()}
                images[record.item_id] = image
    store.close()
    store = opened(path)
    try:
        assert store.version() == len(commits)
        assert store.records([*IDS, "nobody"]) == said
        read = store.features(IDS)
        assert {
            item_id: {key: vector.tolist() for key, vector in of.items()}
            for item_id, of in read.items()
        } == {item_id: of for item_id, of in features.items() if of}
        assert {item_id: store.image(item_id) for item_id in IDS} == {
            item_id: images.get(item_id, b"") for item_id in IDS
        }
        newer = {i for i, record in said.items() if record.version > 1}
        assert set(store.changes(1)) == newer
    finally:
        store.close()


def one(item_id: str, version: int, image: bytes = b"") -> Write:
    return Write(Record(item_id, version, Content(title=item_id)), {}, image)


def test_the_oldest_image_files_go_when_there_are_too_many_bytes_of_them(tmp_path: Path) -> None:
    store = opened(tmp_path / "catalogue.db", image_bytes=250)
    for version, item_id in enumerate("abc", start=1):
        store.commit([one(item_id, version, image=b"x" * 100)], version)
    assert [len(store.image(item_id)) for item_id in "abc"] == [0, 100, 100]
    store.commit([one("b", 4)], 4)  # gives its place back
    store.commit([one("d", 5, image=b"x" * 100)], 5)
    assert [len(store.image(item_id)) for item_id in "abcd"] == [0, 0, 100, 100]
    store.close()


def test_features_made_later_are_kept_unless_the_item_has_changed(store: SqliteStore) -> None:
    key = FeatureKey("text", "encoder", b"key")
    store.commit([one("a", 1), one("b", 1)], 1)
    store.commit([one("b", 2)], 2)
    for item_id in "ab":
        store.keep_features(item_id, 1, {key: np.ones(2, np.float32)})
    assert list(store.features(["a", "b"])) == ["a"]


def test_a_failed_commit_changes_nothing(store: SqliteStore) -> None:
    store.commit([one("a", 1)], 1)
    broken = one("c", 2)._replace(image=object())  # type: ignore[arg-type]
    with pytest.raises(StoreFailed, match="cannot be written"):
        store.commit([one("b", 2), broken], 2)
    assert store.version() == 1
    assert list(store.records(["a", "b", "c"])) == ["a"]
    store.commit([one("b", 2)], 2)
    assert store.version() == 2


def test_a_database_that_is_in_use_is_refused(store: SqliteStore, tmp_path: Path) -> None:
    with pytest.raises(StoreDamaged, match="in use by another server"):
        opened(tmp_path / "catalogue.db")


def test_a_damaged_file_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    store = opened(path)
    store.commit([one(f"item-{n}", 1, image=b"x" * 5000) for n in range(50)], 1)
    store.close()
    content = bytearray(path.read_bytes())
    content[8192 : len(content) // 2] = b"\xa5" * (len(content) // 2 - 8192)
    path.write_bytes(content)
    with pytest.raises(StoreDamaged, match=r"catalogue\.db"):
        opened(path)
    path.write_text("no database at all, whatever its name says")
    with pytest.raises(StoreDamaged, match="file is not a database"):
        opened(path)


def test_another_programs_database_and_another_schema_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(StoreDamaged, match=r"no catalogue of mmsr-serve"):
        opened(other)
    path = tmp_path / "catalogue.db"
    opened(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreDamaged, match="has schema 99, this release reads 1"):
        opened(path)


def test_a_place_that_cannot_hold_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreDamaged, match=r"Not a directory|File exists"):
        opened(tmp_path / "file" / "catalogue.db")
