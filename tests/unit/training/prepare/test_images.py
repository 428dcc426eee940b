import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from mmsr.training.prepare.images import (
    HEADER_BYTES,
    MISSING,
    OUTSIDE,
    TOO_LARGE,
    UNREADABLE,
    ImageChecker,
    Picture,
    below,
    image_checker,
)


@pytest.fixture
def checker(tmp_path: Path) -> Iterator[ImageChecker]:
    root = tmp_path / "root"
    root.mkdir()
    with image_checker(root) as checker:
        yield checker


def write_bomb(path: Path, side: int) -> None:
    """Write a PNG whose header claims `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def test_pictures_keep_their_order(checker: ImageChecker) -> None:
    Image.new("L", (4, 4)).save(checker.root / "a.png")
    (checker.root / "sub").mkdir()
    Image.new("RGB", (4, 4)).save(checker.root / "sub" / "b.jpg")
    found = checker.check(["sub/b.jpg", None, "a.png", "sub/./b.jpg", "c.png"])
    assert [picture.path for picture in found] == ["sub/b.jpg", None, "a.png", "sub/b.jpg", None]
    assert [picture.problem for picture in found] == [None, None, None, None, MISSING]


def test_a_file_that_is_no_picture_is_unreadable(checker: ImageChecker) -> None:
    (checker.root / "a.jpg").write_bytes(b"<html>")
    (checker.root / "b.jpg").write_bytes(b"")
    (checker.root / "c.jpg").write_bytes(b"x" * (HEADER_BYTES + 1))
    found = checker.check(["a.jpg", "b.jpg", "c.jpg"])
    assert [picture.problem for picture in found] == [UNREADABLE] * 3
    assert found[0].detail == "a.jpg: not an image (6 bytes)"


# 100 M pixels make Pillow warn, 900 M make it refuse; the limit here is below both.
@pytest.mark.parametrize("side", [8_000, 10_000, 30_000])
def test_an_image_bomb_is_refused_by_its_header(checker: ImageChecker, side: int) -> None:
    write_bomb(checker.root / "bomb.png", side)
    [picture] = checker.check(["bomb.png"])
    assert (picture.path, picture.problem) == (None, TOO_LARGE)
    assert str(side * side) in picture.detail


def test_a_header_behind_long_metadata_is_found(checker: ImageChecker) -> None:
    path = checker.root / "a.jpg"
    Image.new("RGB", (4, 4)).save(path)
    jpeg = path.read_bytes()
    comment = b"\xff\xfe" + struct.pack(">H", 65_000) + b"c" * 64_998
    path.write_bytes(jpeg[:2] + comment * 2 + jpeg[2:])
    assert checker.check(["a.jpg"]) == [Picture(path="a.jpg")]


def test_a_pipe_or_a_folder_is_no_picture(checker: ImageChecker) -> None:
    os.mkfifo(checker.root / "pipe.jpg")
    (checker.root / "folder.jpg").mkdir()
    found = checker.check(["pipe.jpg", "folder.jpg", "x" * 5000])
    assert [picture.problem for picture in found] == [MISSING, MISSING, UNREADABLE]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jpg", "a.jpg"),
        ("sub//./a.jpg", "sub/a.jpg"),
        ("/shop/images/a.jpg", "a.jpg"),
        ("/shop/images", None),
        ("../a.jpg", None),
        ("sub/../a.jpg", None),
        ("/etc/passwd", None),
        ("/shop/images2/a.jpg", None),
        ("a\0.jpg", None),
    ],
)
def test_paths_stay_below_the_root(text: str, expected: str | None) -> None:
    assert below(Path("/shop/images"), text) == expected


def test_a_path_that_leaves_is_not_opened(checker: ImageChecker) -> None:
    Image.new("L", (4, 4)).save(checker.root.parent / "secret.png")
    [picture] = checker.check(["../secret.png"])
    assert picture == Picture(problem=OUTSIDE, detail="../secret.png")
