"""Brands that become categories."""

import json
from pathlib import Path

import pytest

from mmsr.training.dataset import DataError, open_dataset
from mmsr.training.prepare.preparation import TableSettings
from mmsr.training.prepare.sources import find_sources
from mmsr.training.prepare.table import prepare_table

ITEMS = [
    {"item_id": "a", "brand": "Acme", "categories": ["Cups"]},
    {"item_id": "b", "brand": "Acme"},
    {"item_id": "c", "brand": "Rare", "categories": ["Cups", "Mugs"]},
    {"item_id": "d", "categories": ["Mugs"]},
]


def prepare(folder: Path, brand_items: int | None) -> list[list[str]]:
    source, out = folder / "source", folder / "out"
    source.mkdir()
    out.mkdir()
    (source / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    log = ["user_id,item_id,timestamp"]
    log += [f"u{u},{item},{t}" for u in range(3) for t, item in enumerate("abcd")]
    (source / "interactions.csv").write_text("\n".join(log))
    settings = TableSettings(name="shop", image_root=str(source), brand_items=brand_items)
    prepare_table(find_sources(source), out, settings, lambda stage, done: None)
    dataset = open_dataset(out)
    lists: list[list[str]] = dataset.item_table(["categories"])["categories"].to_pylist()
    assert dataset.info.categories == sorted({c for names in lists for c in names})
    return lists


def test_a_brand_of_enough_items_is_one_more_category(tmp_path: Path) -> None:
    expected = [["Cups", "brand: Acme"], ["brand: Acme"], ["Cups", "Mugs"], ["Mugs"]]
    assert prepare(tmp_path, 2) == expected


def test_unless_it_is_asked_for_brands_are_no_categories(tmp_path: Path) -> None:
    assert prepare(tmp_path, None) == [["Cups"], [], ["Cups", "Mugs"], ["Mugs"]]


def test_no_items_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="brand-categories 0; expected at least 1 item"):
        TableSettings(name="shop", image_root=".", brand_items=0)
