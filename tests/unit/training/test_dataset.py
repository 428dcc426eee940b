import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.source_files import items_of, log_of, prepare_folder, write_lines

from mmsr.training.dataset import DataError, open_dataset

Damage = Callable[[Path], None]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    write_lines(source / "items.jsonl", items_of("a", "b"))
    write_lines(source / "interactions.jsonl", log_of(("u", "a", 1), ("u", "b", 2), ("v", "b", 3)))
    prepare_folder(source, out)
    return out


def change_info(key: str, value: object) -> Damage:
    def damage(folder: Path) -> None:
        info = json.loads((folder / "data.json").read_text())
        (folder / "data.json").write_text(json.dumps(info | {key: value}))

    return damage


def truncate(name: str) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:-20])

    return damage


def save(name: str, array: np.ndarray) -> Damage:
    return lambda folder: np.save(folder / "sequences" / f"{name}.npy", array)


def test_prepared_data_open_with_memory_mapped_sequences(data: Path) -> None:
    dataset = open_dataset(data)
    assert isinstance(dataset.items_T, np.memmap)
    assert dataset.items_T.tolist() == [1, 2, 2]
    assert dataset.offsets.tolist() == [0, 2, 3]
    assert dataset.user_ids() == ["u", "v"]
    assert dataset.item_table(["title"]).to_pydict() == {"title": ["The a", "The b"]}


def test_an_image_root_is_absolute_or_relative_to_the_data(data: Path) -> None:
    assert open_dataset(data).image_root == (data.parent / "source").resolve()
    change_info("image_root", "pictures")(data)
    assert open_dataset(data).image_root == data / "pictures"


def test_a_folder_without_data_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no prepared data .* mmsr-train prepare table SRC"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_info("format", 99), "format 99, this release reads 1"),
        (change_info("colour", "red"), "damaged .*colour"),
        (change_info("items", "two"), "items.parquet has 2 rows, data.json says two"),
        (change_info("users", 5), "users.parquet has 2 rows, data.json says 5"),
        (change_info("interactions", 4), "sequences of 3 items, data.json says 4"),
        (truncate("items.parquet"), "damaged"),
        (truncate("sequences/times.npy"), "damaged"),
        (lambda folder: (folder / "users.parquet").unlink(), "damaged"),
        (save("items", np.array([1, 2, 2])), "type int64, expected .*int32"),
        (save("items", np.array([1, 2, 3], dtype=np.int32)), "name items or places"),
        (save("items", np.array([0, 1, 2], dtype=np.int32)), "name items or places"),
        (save("offsets", np.array([0, 1, 2])), "does not part the sequences"),
        (save("offsets", np.array([0, 3])), "does not part the sequences"),
        (save("times", np.array([1.0])), "sequences of 3 items"),
    ],
)
def test_damage_is_one_clear_error(data: Path, damage: Damage, message: str) -> None:
    damage(data)
    with pytest.raises(DataError, match=message) as error:
        open_dataset(data)
    assert str(data) in str(error.value)
    assert "prepare the data again" in str(error.value)


def test_a_table_that_breaks_later_is_one_clear_error(data: Path) -> None:
    dataset = open_dataset(data)
    pq.write_table(dataset.item_table(["title"]), data / "users.parquet")
    truncate("items.parquet")(data)
    with pytest.raises(DataError, match=r"items\.parquet is damaged"):
        dataset.item_table()
