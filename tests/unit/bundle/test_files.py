"""Writes are whole or not there."""

import json
import os
import stat
import subprocess
import sys
import threading
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


def test_a_symbolic_link_stays_and_what_it_points_at_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target.json", tmp_path / "link.json"
    link.symlink_to("folder/target.json")
    for value in ({"a": 1}, {"a": 2}):  # at first the target is not there yet
        write_json(link, value)
        assert link.is_symlink()
        assert not target.is_symlink()
        assert read_json(target, "a file") == value
    assert [p.name for p in target.parent.iterdir()] == ["target.json"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    write_json(pipe, ["é"])
    reader.join(60)
    assert found == ['[\n  "é"\n]\n']
    assert pipe.is_fifo()
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_a_link_to_standard_output_is_written_through(tmp_path: Path) -> None:
    """As /dev/stdout is one; not by that name, which a failing test run by root would replace."""
    link = tmp_path / "stdout"
    link.symlink_to("/proc/self/fd/1")
    assert json.loads(python(f"write_json(Path({str(link)!r}), {{'a': 1}})")) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["stdout"]
    assert link.is_symlink()


def test_json_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    accent = "'\\u00e9'"  # as Python would write it: the command line has a locale too
    code = f"p = Path({str(path)!r}); write_json(p, {accent}); print(len(read_json(p, 'x')))"
    assert python(code, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL="C") == "1\n"
    assert path.read_bytes() == '"é"\n'.encode()


def python(code: str, **environment: str) -> str:
    head = "from pathlib import Path; from mmsr.bundle.files import read_json, write_json; "
    done = subprocess.run(
        [sys.executable, "-c", head + code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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
