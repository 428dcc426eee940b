import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.source_files import items_of, log_of, write_lines
from typer.testing import CliRunner

from mmsr.training.config import ConfigError
from mmsr.training.dataset import DataError, open_dataset
from mmsr.training.prepare.cli import app
from mmsr.training.prepare.items import UNSPLIT

TOY = ["--items", "30", "--users", "12", "--interactions", "60", "--image-size", "16"]


def run(*arguments: str | Path) -> str:
    """Run a command; return what it prints, raise what it raises."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "my-shop"
    folder.mkdir()
    write_lines(folder / "items.jsonl", items_of("a", "b"))
    write_lines(folder / "interactions.jsonl", log_of(("u", "a", 1), ("u", "x", 2), ("v", "b", 3)))
    return folder


def test_table_prints_what_there_is_and_where_the_report_lies(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = run("table", source, out)
    lines = [line.split() for line in printed.splitlines()]
    assert ["users", "2"] in lines
    assert ["mean", "length", "1.0"] in lines
    assert "interactions.jsonl, rejected: item not in the items file" in printed
    assert f"report: {out}/report.json (lists: rejected.jsonl, notes.jsonl)" in printed
    dataset = open_dataset(out)
    assert dataset.info.name == "my-shop"
    assert dataset.info.image_root == str(source.resolve())
    assert json.loads((out / "report.json").read_text())["prepared"]["users"] == 2


def test_table_takes_files_and_pictures_from_elsewhere(
    tmp_path: Path, source: Path, picture: Callable[[str], Path]
) -> None:
    pictures = picture("a.png").parent
    other = tmp_path / "catalogue.csv"
    other.write_text("item_id,image,categories\na,a.png,Cups|Mugs\nb,,\n")
    out = tmp_path / "out"
    run("table", source, out, "--items", other, "--image-root", pictures)
    dataset = open_dataset(out)
    assert dataset.item_table()["image"].to_pylist() == ["a.png", None]
    assert dataset.info.categories == ["Cups", "Mugs"]
    assert (dataset.image_root / "a.png").is_file()


def test_table_does_what_the_recipe_says_unless_told_otherwise(
    source: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[prepare]\nbrand_categories = 1\n")
    shop = ['{"item_id": "a", "brand": "Acme"}', '{"item_id": "b"}']
    (source / "items.jsonl").write_text("\n".join(shop))
    run("table", source, tmp_path / "one", "--config", recipe)
    assert open_dataset(tmp_path / "one").info.categories == ["brand: Acme"]
    run("table", source, tmp_path / "two", "--config", recipe, "--brand-categories", "2")
    assert open_dataset(tmp_path / "two").info.categories == []


def test_categories_in_one_text_are_told_and_split_when_asked_for(
    source: Path, tmp_path: Path
) -> None:
    shop = ['{"item_id": "a", "categories": "Action|Comedy"}', '{"item_id": "b"}']
    (source / "items.jsonl").write_text("\n".join(shop))
    printed = run("table", source, tmp_path / "one")
    assert open_dataset(tmp_path / "one").info.categories == ["Action|Comedy"]
    problem = UNSPLIT.format("|")
    assert "to split it: --list-separator '|'" in printed
    report = json.loads((tmp_path / "one" / "report.json").read_text())
    assert report["items"]["notes"] == {problem: 1}
    run("table", source, tmp_path / "two", "--list-separator", "|")
    assert open_dataset(tmp_path / "two").info.categories == ["Action", "Comedy"]
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[prepare]\nlist_separator = ";"\n')
    run("table", source, tmp_path / "three", "--config", recipe)
    assert open_dataset(tmp_path / "three").info.categories == ["Action|Comedy"]
    report = json.loads((tmp_path / "three" / "report.json").read_text())
    assert report["items"]["notes"] == {}  # the user has said what parts a text


def test_an_empty_separator_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="list_separator is empty"):
        run("table", source, tmp_path / "out", "--list-separator", "")


def test_table_refuses_then_replaces(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("table", source, out)
    with pytest.raises(DataError, match="replace them with --force"):
        run("table", source, out)
    run("table", source, out, "--k-core", "1", "--force")
    assert open_dataset(out).info.settings["k_core"] == 1


def test_table_does_not_delete_its_own_input(tmp_path: Path) -> None:
    run("toy", tmp_path / "toy", *TOY)
    with pytest.raises(DataError, match="lies inside"):
        run("table", tmp_path / "toy" / "source", tmp_path / "toy", "--force")
    run("table", tmp_path / "toy" / "source", tmp_path / "again")
    hashes = {open_dataset(tmp_path / name).info.content_hash for name in ("toy", "again")}
    assert len(hashes) == 1


def test_toy_writes_the_same_bytes_wherever_it_writes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        printed = run("toy", tmp_path / name, *TOY, "--seed", "5")
        assert ["items", "30"] in [line.split() for line in printed.splitlines()]
    files = [path for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) > 30
    for path in files:
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes(), path.name
    dataset = open_dataset(tmp_path / "one")
    assert dataset.image_root == tmp_path / "one" / "source"
    images = [name for name in dataset.item_table(["image"])["image"].to_pylist() if name]
    assert all((dataset.image_root / name).is_file() for name in images)


def test_toy_without_pictures(tmp_path: Path) -> None:
    run("toy", tmp_path / "toy", *TOY, "--no-images")
    assert open_dataset(tmp_path / "toy").item_table()["image"].null_count == 30


def test_a_failed_command_leaves_no_folder(source: Path, tmp_path: Path) -> None:
    (source / "interactions.jsonl").write_text("nonsense\n")
    with pytest.raises(DataError, match=r"no interactions left; .* malformed row \(1\)"):
        run("table", source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["my-shop"]
