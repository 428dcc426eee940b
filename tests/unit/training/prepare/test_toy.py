from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.source_files import Outcome, prepare_folder

from mmsr.training.dataset import DataError
from mmsr.training.prepare.progress import silent
from mmsr.training.prepare.toy.behaviour import draw_lengths
from mmsr.training.prepare.toy.factors import draw_factors
from mmsr.training.prepare.toy.settings import ToySettings, usual_interactions
from mmsr.training.prepare.toy.shop import draw_pictures, picture_jobs, write_shop

SMALL = ToySettings(items=60, users=50, interactions=400, seed=3, image_size=32)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "source"
    write_shop(folder, SMALL, silent)
    return folder


@pytest.fixture(scope="module")
def outcome(shop: Path) -> Outcome:
    out = shop.parent / "out"
    out.mkdir()
    return prepare_folder(shop, out)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_settings_make_the_same_bytes(shop: Path, tmp_path: Path) -> None:
    write_shop(tmp_path / "again", SMALL, silent)
    assert contents(tmp_path / "again") == contents(shop)


def test_another_seed_makes_another_shop(shop: Path, tmp_path: Path) -> None:
    settings = ToySettings(items=60, users=50, interactions=400, seed=4, image_size=32)
    write_shop(tmp_path / "other", settings, silent)
    other, first = contents(tmp_path / "other"), contents(shop)
    shared = other.keys() & first.keys()
    assert all(other[name] != first[name] for name in shared)
    assert {"items.parquet", "interactions.parquet"} < shared


def test_a_generated_shop_has_nothing_to_reject(outcome: Outcome) -> None:
    assert outcome.rejected == outcome.notes == []
    prepared = outcome.report.prepared
    assert (prepared.items, prepared.users) == (60, 50)
    assert 380 <= prepared.interactions <= 400
    assert 3 <= prepared.items_with_text < 61
    assert prepared.users_below_3_interactions == 0


def test_nobody_buys_an_item_twice(outcome: Outcome) -> None:
    for items in outcome.sequences().values():
        assert len(items) == len(set(items))


def test_items_read_like_a_shop(outcome: Outcome) -> None:
    for item in outcome.dataset.item_table().to_pylist():
        for text in (item["title"], item["description"]):
            if text is not None:
                assert text[0].isupper()
                assert "{" not in text
                assert " a a" not in text
        if item["categories"]:
            assert len(item["categories"]) >= 2
    assert len(outcome.dataset.info.categories) > 30


def test_pictures_are_where_the_items_say(outcome: Outcome) -> None:
    paths = [path for path in outcome.dataset.item_table()["image"].to_pylist() if path]
    assert len(paths) == outcome.report.prepared.items_with_image > 50
    with Image.open(outcome.dataset.image_root / paths[0]) as picture:
        assert (picture.format, picture.size, picture.mode) == ("JPEG", (32, 32), "RGB")


def test_a_shop_without_pictures_has_none(tmp_path: Path) -> None:
    settings = ToySettings(items=20, users=5, interactions=20, image_size=None)
    write_shop(tmp_path / "shop", settings, silent)
    items = pq.read_table(tmp_path / "shop" / "items.parquet")
    assert items["image"].null_count == 20
    assert not (tmp_path / "shop" / "images").exists()


def test_large_shops_are_drawn_in_parts_of_a_folder_each(tmp_path: Path) -> None:
    factors = draw_factors(2_040, seed=0)
    jobs = picture_jobs(tmp_path, factors, seed=0, size=16)
    assert [int(job.items[0]) // 1000 for job in jobs] == [0, 1, 2]
    drawn = np.concatenate([job.items for job in jobs])
    np.testing.assert_array_equal(drawn, np.flatnonzero(factors.has_image_N))
    draw_pictures(jobs[2])
    assert len(list((tmp_path / "images" / "0002").iterdir())) == len(jobs[2].items)


def test_other_processes_draw_the_same_pictures(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsr.training.prepare.toy.shop.POOL_FROM_PICTURES", SMALL.items)
    write_shop(tmp_path / "again", SMALL, silent)
    assert contents(tmp_path / "again" / "images") == contents(shop / "images")


def test_lengths_add_up_and_are_at_least_three() -> None:
    settings = ToySettings(items=400, users=1500, interactions=18_000)
    length_U = draw_lengths(settings)
    assert length_U.sum() == 18_000
    assert length_U.min() >= 3
    assert length_U.max() > 2 * length_U.mean()


@pytest.mark.parametrize(("items", "length"), [(400, 12), (24, 12), (10, 5), (6, 3)])
def test_the_usual_length_fits_the_catalogue(items: int, length: int) -> None:
    settings = ToySettings(items=items, users=10, interactions=usual_interactions(items, 10))
    assert settings.interactions == 10 * length


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": 0}, "toy shop of 0 items"),
        ({"users": 0}, "at least one user"),
        ({"seed": -1}, "a seed of 0 or more"),
        ({"users": 10, "interactions": 29}, "expected at least 3 a user, 30 in all"),
        ({"users": 10, "interactions": 500, "items": 90}, "50.0 interactions a user of 90 items"),
        ({"image_size": 8}, "image size 8; expected 16 to 1024 pixels"),
    ],
)
def test_sizes_that_make_no_shop_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ToySettings(**changes)
