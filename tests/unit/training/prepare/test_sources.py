from pathlib import Path

import pytest

from mmsr.training.dataset import DataError
from mmsr.training.prepare.sources import find_sources


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def test_the_two_files_are_found(tmp_path: Path) -> None:
    touch(tmp_path, "items.csv", "interactions.parquet", "items.txt", "README.md")
    found = find_sources(tmp_path)
    assert (found.items.name, found.interactions.name) == ("items.csv", "interactions.parquet")
    assert found.image_root == tmp_path.resolve()


def test_named_files_need_not_be_in_the_folder(tmp_path: Path) -> None:
    other = tmp_path / "catalogue.csv"
    touch(tmp_path, "interactions.csv")
    assert find_sources(tmp_path, items=other).items == other


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["interactions.csv"], "holds no items file; expected one items{.parquet,.csv,.jsonl}"),
        (["interactions.csv", "items.csv", "items.jsonl"], "holds items.csv and items.jsonl;"),
        (["items.csv"], "no interactions file"),
    ],
)
def test_none_or_several_are_one_clear_error(
    tmp_path: Path, names: list[str], message: str
) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError) as error:
        find_sources(tmp_path)
    assert message in str(error.value)


def test_folders_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder; expected one with interactions and items"):
        find_sources(tmp_path / "nowhere")
    touch(tmp_path, "items.csv", "interactions.csv")
    with pytest.raises(DataError, match=r"image root .* is no folder"):
        find_sources(tmp_path, image_root=tmp_path / "nowhere")
