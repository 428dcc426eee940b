import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmsr.training.dataset import Dataset
from mmsr.training.features.cache import NO_KEY
from mmsr.training.features.image_files import MAX_FILE_BYTES, ImageFiles, save_index, scan

NONE_CACHED = np.zeros(0, "S32")
KEYS = [bytes([letter]) * 32 for letter in b"abc"]


@pytest.fixture
def shop(make_shop: Callable[..., Dataset], draw: Callable[..., Path]) -> Dataset:
    """Five items: two share a picture, one has none."""
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        draw(name, seed)
    names = ["b.png", None, "a.png", "b.png", "c.png"]
    return make_shop([{"image": name} for name in names])


def learn(files: ImageFiles, keys: list[bytes]) -> None:
    for file, key in enumerate(keys):
        files.keys[file] = key


def test_a_file_that_several_items_name_is_listed_once(shop: Dataset, tmp_path: Path) -> None:
    files = scan(shop, tmp_path / "index.npy")
    assert [Path(path).name for path in files.paths] == ["b.png", "a.png", "c.png"]
    assert files.file_N.tolist() == [0, -1, 1, 0, 2]
    assert files.to_decode(NONE_CACHED) == [0, 1, 2]
    learn(files, KEYS)
    assert files.item_keys().tolist() == [KEYS[0], NO_KEY, KEYS[1], KEYS[0], KEYS[2]]


def test_an_unchanged_file_is_known_the_next_time(shop: Dataset, tmp_path: Path) -> None:
    index = tmp_path / "index.npy"
    files = scan(shop, index)
    learn(files, KEYS)
    save_index(files, index)
    again = scan(shop, index)
    assert again.keys.tolist() == KEYS
    assert again.to_decode(np.array(KEYS[:1], "S32")) == [1, 2]
    assert again.to_decode(np.array(KEYS, "S32")) == []


def test_a_file_of_another_time_or_size_is_unknown_again(
    shop: Dataset, draw: Callable[..., Path], tmp_path: Path
) -> None:
    index = tmp_path / "index.npy"
    files = scan(shop, index)
    learn(files, KEYS)
    save_index(files, index)
    touched, rewritten = Path(files.paths[0]), Path(files.paths[1])
    os.utime(touched, ns=(0, 1))
    before = rewritten.stat()
    rewritten.write_bytes(b"short")
    os.utime(rewritten, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert scan(shop, index).keys.tolist() == [NO_KEY, NO_KEY, KEYS[2]]


def test_of_files_with_one_known_content_only_the_first_is_decoded(
    shop: Dataset, tmp_path: Path
) -> None:
    files = scan(shop, tmp_path / "index.npy")
    learn(files, [KEYS[0], KEYS[1], KEYS[0]])
    assert files.to_decode(NONE_CACHED) == [0, 1]


def test_a_file_learnt_half_way_is_kept(shop: Dataset, tmp_path: Path) -> None:
    index = tmp_path / "index.npy"
    files = scan(shop, index)
    learn(files, KEYS[:1])
    save_index(files, index)
    assert scan(shop, index).keys.tolist() == [KEYS[0], NO_KEY, NO_KEY]


@pytest.mark.parametrize("damage", [b"", b"no index", None])
def test_a_damaged_index_counts_as_none(
    shop: Dataset, tmp_path: Path, damage: bytes | None
) -> None:
    index = tmp_path / "index.npy"
    if damage is None:
        np.save(index, np.zeros(3))
    else:
        index.write_bytes(damage)
    assert scan(shop, index).to_decode(NONE_CACHED) == [0, 1, 2]


def test_what_is_no_readable_file_is_told_and_not_read(
    make_shop: Callable[..., Dataset], draw: Callable[..., Path], tmp_path: Path
) -> None:
    pictures = draw("good.png").parent
    os.mkfifo(pictures / "pipe.png")  # reading it would wait for ever
    with (pictures / "large.png").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    names = ["good.png", "absent.png", "pipe.png", "large.png", ".", "nul\0.png"]
    files = scan(make_shop([{"image": name} for name in names]), tmp_path / "index.npy")
    assert files.to_decode(NONE_CACHED) == [0]
    assert "embedded null" in files.problems.pop(5)  # Python's words, which change
    assert files.problems == {
        1: "file not found",
        2: "not a regular file",
        3: "file of 100000001 bytes, at most 100000000",
        4: "not a regular file",
    }


def test_items_without_any_picture_name_no_file(
    make_shop: Callable[..., Dataset], tmp_path: Path
) -> None:
    files = scan(make_shop([{}, {}]), tmp_path / "index.npy")
    assert files.paths == []
    assert files.item_keys().tolist() == [NO_KEY, NO_KEY]
    assert files.to_decode(NONE_CACHED) == []
