"""Writes are whole or not there."""

import stat
from pathlib import Path

import pytest

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.files import atomic_path, read_json, sha256_file, sha256_json, write_json


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise ZeroDivisionError
    assert read_json(path, "a file") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", [])
    assert stat.S_IMODE((tmp_path / "file.json").stat().st_mode) == 0o644


def test_a_file_that_cannot_be_read_is_named_with_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(MmsrError, match=r"none\.json not found; expected a label"):
        read_json(tmp_path / "none.json", "a label")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(MmsrError, match=r"bad\.json is unreadable"):
        read_json(tmp_path / "bad.json", "a label")


def test_hashes_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "abc") == expected
    assert sha256_json({"b": 1, "a": "é"}) == sha256_json({"a": "é", "b": 1})
