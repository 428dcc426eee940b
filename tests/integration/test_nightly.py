"""Night after night on a shop without pictures and texts: what is done, kept, skipped, said."""

import csv
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import run, succeed
from support.small_shop import shop_recipe

from mmsr.bundle.manifest import load_manifest
from mmsr.bundle.repository import Repository
from mmsr.training.checkpoint import checkpoint_folder, load_progress, load_run_info
from mmsr.training.config import Recipe, load_recipe
from mmsr.training.dataset import DataError
from mmsr.training.fit import TrainingDivergedError
from mmsr.training.nightly import STAGES, run_night
from mmsr.training.nightly_cli import nightly
from mmsr.training.nightly_stages import Night, Shown, prepare_stage
from mmsr.training.nightly_store import NightError, NightRunningError, NightStatus, Work
from mmsr.training.prepare.progress import silent

ITEMS, USERS = 20, 30
RECIPE = """
[features]
text_fields = ["title"] # of which there is none

[model]
sources = ["id", "position", "category"]
width = 16
side_width = 8
feedforward_width = 16
max_length = 10

[fit]
epochs = 1
"""


class StoppedError(Exception):
    """Stands for kill -9."""


def write_shop(folder: Path, bought: int = 6) -> Path:
    """Write a shop in which everybody has bought so many; return `folder`."""
    folder.mkdir(exist_ok=True)
    with (folder / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item_id", "categories"])
        writer.writerows([f"i{n}", f"c{n % 3}"] for n in range(ITEMS))
    starts = np.random.default_rng(0).integers(0, ITEMS, USERS)
    with (folder / "interactions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "timestamp"])
        for user, start in enumerate(starts):
            writer.writerows(
                [f"u{user}", f"i{(start + n) % ITEMS}", 1000 * n + user] for n in range(bought)
            )
    return folder


def add_pictures(shop: Path) -> None:
    """Give every item a picture of its own colour."""
    with (shop / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item_id", "categories", "image"])
        writer.writerows([f"i{n}", f"c{n % 3}", f"i{n}.png"] for n in range(ITEMS))
    for n in range(ITEMS):
        Image.new("RGB", (32, 32), (10 * n, 0, 0)).save(shop / f"i{n}.png")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    made = load_recipe(shop_recipe(tmp_path, epochs=2))
    return replace(
        made,
        model=replace(made.model, sources=("id", "position", "category")),
        features=replace(made.features, text_fields=("title",)),  # of which there is none
    )


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return write_shop(tmp_path / "shop")


@contextmanager
def not_shown() -> Iterator[Callable[[str], None]]:
    yield lambda text: None


def night(
    recipe: Recipe,
    shop: Path,
    work: Path,
    say: Callable[[str], None] = lambda text: None,
    warm: bool = False,
) -> Night:
    place = Work(root=work)
    records = place.records()
    shown = Shown(
        preparing=lambda: nullcontext(silent), working=lambda: nullcontext(say), bars=False
    )
    return Night(
        recipe=recipe,
        source=shop,
        work=place,
        previous=records[-1] if records else None,
        warm=warm,
        shown=shown,
    )


def spend(made: Night, keep: int = 3) -> NightStatus:
    made.work.root.mkdir(exist_ok=True)
    return run_night(made, keep, lambda stage: None)


def states(status: NightStatus) -> dict[str, str]:
    return {stage.name: stage.state for stage in status.stages}


def folders(work: Path, kind: str) -> set[str]:
    return {path.name for path in (work / kind).iterdir()}


def test_the_first_night_does_everything_and_the_next_one_nothing(
    recipe: Recipe, shop: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    first = spend(night(recipe, shop, work))
    assert states(first) == dict.fromkeys(STAGES, "done")
    latest = (work / "latest").resolve()
    final = load_run_info(latest)
    assert final.selected_by is not None
    assert final.selected_by.run == str((work / first.stages[2].folder).resolve())
    assert json.loads((latest / "evaluation.json").read_text())["from"]["epoch"] >= 1
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    second = spend(night(recipe, shop, work))
    assert states(second) == dict.fromkeys(STAGES, "unchanged")
    assert [s.summary for s in second.stages][2:] == [s.summary for s in first.stages][2:]
    changed = {p for p, time in before.items() if p.stat().st_mtime_ns != time}
    assert changed == {work / "status.json"}
    assert len(Work(root=work).records()) == 1


def test_new_purchases_make_a_new_night_that_begins_with_the_one_before(
    recipe: Recipe, shop: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    first = spend(night(recipe, shop, work))
    write_shop(shop, bought=7)
    second = spend(night(recipe, shop, work, warm=True))
    assert states(second) == dict.fromkeys(STAGES, "done")
    run, final = (load_run_info(work / second.stages[n].folder) for n in (2, 4))
    assert run.init_from is not None
    assert final.init_from is not None
    # Never the final run: it has been trained on what tonight is validated with.
    assert run.init_from.run == str((work / first.stages[2].folder).resolve())
    assert final.init_from.run == str((work / first.stages[4].folder).resolve())
    assert first.stages[2].folder.partition("/")[2] in second.stages[2].summary
    assert (work / "latest").resolve() == (work / second.stages[4].folder).resolve()


def test_pictures_may_lie_elsewhere(recipe: Recipe, shop: Path, tmp_path: Path) -> None:
    made = night(recipe, shop, tmp_path / "work")
    beside = prepare_stage(made)
    assert beside.stamp["settings"]["image_root"] == str(shop)
    elsewhere = prepare_stage(replace(made, image_root=tmp_path))
    assert elsewhere.stamp["settings"]["image_root"] == str(tmp_path)
    assert elsewhere.folder != beside.folder
    with pytest.raises(DataError, match=r"image root .* is no folder"):
        prepare_stage(replace(made, image_root=tmp_path / "nowhere"))


def test_only_what_a_changed_recipe_concerns_is_done_again(
    recipe: Recipe, shop: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    spend(night(recipe, shop, work))
    other = replace(recipe, fit=replace(recipe.fit, seed=1))
    found = states(spend(night(other, shop, work)))
    assert found == {
        "prepare": "unchanged",
        "features": "unchanged",
        "fit": "done",
        "evaluate": "done",
        "final": "done",
    }
    served = replace(other, serving=replace(other.serving, exclude_seen=False))
    spend(night(served, shop, work))
    assert not load_run_info((work / "latest").resolve()).recipe.serving.exclude_seen


def test_an_interrupted_night_goes_on_where_it_stopped(
    recipe: Recipe, shop: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    whole = tmp_path / "whole"
    spend(night(recipe, shop, whole))

    def stop(text: str) -> None:
        if text.startswith("fit: epoch 2"):
            raise StoppedError("the power went")

    with pytest.raises(StoppedError):
        spend(night(recipe, shop, work, stop))
    told = json.loads((work / "status.json").read_text())
    assert (told["state"], told["exit_code"], told["error"]) == ("failed", 1, "the power went")
    assert [s["state"] for s in told["stages"]] == ["done", "done", "failed", "waiting", "waiting"]
    run = work / told["stages"][2]["folder"]
    assert load_progress(checkpoint_folder(run, "last")).epoch == 1
    found = states(spend(night(recipe, shop, work)))
    assert list(found.values()) == ["unchanged", "unchanged", "done", "done", "done"]
    one, other = (
        (checkpoint_folder(root / "latest", "best") / "model.safetensors").read_bytes()
        for root in (work, whole)
    )
    assert one == other


def test_only_the_last_nights_are_kept(recipe: Recipe, shop: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    told = []
    for bought in (5, 6, 7):
        write_shop(shop, bought)
        told.append(spend(night(recipe, shop, work), keep=2))
    for kind, stage in (("data", 0), ("runs", 2), ("finals", 4)):
        used = {status.stages[stage].folder.partition("/")[2] for status in told[1:]}
        assert folders(work, kind) == used
    assert [record.night for record in Work(root=work).records()] == [t.night for t in told[1:]]


def test_nights_that_change_nothing_drive_none_out(
    recipe: Recipe, shop: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    for bought in (5, 6, 6, 6):
        write_shop(shop, bought)
        spend(night(recipe, shop, work), keep=2)
    assert len(folders(work, "finals")) == 2


def test_a_recipe_of_another_width_begins_anew_and_says_why(
    recipe: Recipe, shop: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    spend(night(recipe, shop, work))
    wider = replace(recipe, model=replace(recipe.model, width=32))
    status = spend(night(wider, shop, work, warm=True))
    assert "begun anew, since [model] width = 32, but" in status.stages[2].summary
    assert load_run_info(work / status.stages[4].folder).init_from is None


def test_a_training_that_diverges_has_its_own_exit_code(
    recipe: Recipe, shop: Path, tmp_path: Path
) -> None:
    absurd = replace(recipe, fit=replace(recipe.fit, learning_rate=1e30))
    with pytest.raises(TrainingDivergedError):
        spend(night(absurd, shop, tmp_path / "work"))
    told = json.loads((tmp_path / "work/status.json").read_text())
    assert told["exit_code"] == TrainingDivergedError.exit_code == 5
    assert not (tmp_path / "work/latest").exists()


def test_pictures_are_encoded_once(recipe: Recipe, shop: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    pictured = replace(recipe, model=replace(recipe.model, sources=("id", "image")))
    add_pictures(shop)
    first = spend(night(pictured, shop, work))
    assert f"image of {ITEMS} items, text of 0 items, {ITEMS} encoded" == first.stages[1].summary
    for path in shop.glob("*.png"):
        os.utime(path)  # written again, though not changed
    second = spend(night(pictured, shop, work))
    assert second.stages[1].summary.endswith(", 0 encoded")
    states_but_features = [stage.state for stage in second.stages if stage.name != "features"]
    assert states_but_features == ["unchanged"] * 4
    write_shop(shop, bought=7)
    add_pictures(shop)
    Image.new("RGB", (32, 32), "red").save(shop / "i3.png")
    third = spend(night(pictured, shop, work))
    assert third.stages[1].summary.endswith(", 1 encoded")
    assert states(third) == dict.fromkeys(STAGES, "done")


@pytest.mark.slow
def test_the_command_and_an_export_after_it(shop: Path, tmp_path: Path) -> None:
    """As the README's cron line does it."""
    work = tmp_path / "work"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    command = ("mmsr-train", "nightly", recipe, "--source", shop, "--work", work, "--warm")
    printed = succeed(*command).stdout.splitlines()
    assert [line.split()[0] for line in printed] == [*STAGES, "to"]
    export = ("mmsr-export", work / "latest", "--repository", tmp_path / "repository")
    succeed(*export, "--accept-drop")  # one epoch does not beat popularity
    manifest = load_manifest(Repository(tmp_path / "repository").resolve("stable"))
    assert manifest.provenance["selected_by"]["epoch"] >= 1
    assert "run" not in manifest.provenance["selected_by"]
    assert manifest.metrics["test.masked.ndcg@10"] > 0
    assert manifest.parity["sequence"]["overlap"] == 1.0
    with Work(root=work).locked():
        assert run(*command).returncode == 4
    assert run(*command, "--keep", "0").returncode == 2


def test_a_night_is_one_process(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2" if name == "WORLD_SIZE" else "1")
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    with pytest.raises(NightError, match="start it without torchrun"):
        nightly(path, shop, tmp_path / "work")


def test_two_nights_at_once_are_refused(tmp_path: Path) -> None:
    first, second = Work(root=tmp_path / "work"), Work(root=tmp_path / "work")
    refused = pytest.raises(NightRunningError, match=r"another night .*process \d+")
    with first.locked(), refused as caught, second.locked():
        raise AssertionError("both hold the folder")
    assert caught.value.exit_code == 4
    with second.locked():
        pass
