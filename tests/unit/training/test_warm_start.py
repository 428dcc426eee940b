"""A training that begins with another run's weights, though the catalogue has changed since."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.small_features import write_features
from support.small_shop import CATEGORIES, ITEMS, shop_recipe, write_shop

from mmsr.bundle.errors import MmsrError
from mmsr.training.checkpoint import load_run_info
from mmsr.training.config import Recipe, load_recipe
from mmsr.training.fit import Hooks, Trainer
from mmsr.training.items import ModalityEncoder
from mmsr.training.run import start_final, start_run
from mmsr.training.run_names import NAMES

QUIET = Hooks(step=lambda done, steps, loss: None, epoch=lambda line: None)
NEW_CATEGORIES = ["chairs", *reversed(CATEGORIES)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a shop, the shop as it is later, and a run on the first."""
    root = tmp_path_factory.mktemp("warm")
    write_features(write_shop(root / "before"), "image", "text")
    write_features(later(write_shop(root / "later")), "image", "text", seed=1)
    train(recipe_in(root), root / "before", root / "run")
    return root


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return recipe_in(tmp_path)


def recipe_in(folder: Path) -> Recipe:
    return load_recipe(shop_recipe(folder, epochs=2))


def train(recipe: Recipe, data: Path, out: Path) -> Trainer:
    trainer = start_run(recipe, data, out, resume=False)
    trainer.run(out, QUIET)
    return trainer


def later(shop: Path) -> Path:
    """Put the items into another order, replace one, and name categories anew."""
    order = np.random.default_rng(5).permutation(ITEMS)
    row_of = np.empty(ITEMS + 1, dtype=np.int32)
    row_of[order + 1] = np.arange(1, ITEMS + 1)
    items = pq.read_table(shop / "items.parquet").take(pa.array(order)).to_pylist()
    items[7]["item_id"] = "item-new"
    pq.write_table(
        pa.Table.from_pylist(items, schema=pq.read_schema(shop / "items.parquet")),
        shop / "items.parquet",
    )
    sequences = shop / "sequences/items.npy"
    np.save(sequences, row_of[np.load(sequences)])
    info = json.loads((shop / "data.json").read_text())
    info |= {"categories": NEW_CATEGORIES, "content_hash": "later"}
    (shop / "data.json").write_text(json.dumps(info))
    return shop


def ids_of(data: Path) -> list[str]:
    found: list[str] = pq.read_table(data / "items.parquet")["item_id"].to_pylist()
    return found


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    loss = {f"loss.{name}": value for name, value in trainer.loss.state_dict().items()}
    return {**trainer.model.state_dict(), **loss}


def trained(root: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the run, opened again."""
    recipe = load_run_info(root / "run").recipe
    return weights(start_run(recipe, root / "before", root / "run", resume=True))


def test_rows_are_found_by_item_id_and_a_new_item_begins_as_the_unknown_one(
    root: Path, recipe: Recipe, tmp_path: Path
) -> None:
    trainer = start_run(recipe, root / "later", tmp_path / "run", False, root / "run")
    old = trained(root)["item_encoder.ids.weight"]
    new = weights(trainer)["item_encoder.ids.weight"]
    place = {name: row for row, name in enumerate(ids_of(root / "before"), start=1)}
    for row, name in enumerate(ids_of(root / "later"), start=1):
        assert torch.equal(new[row], old[place.get(name, 0)]), name
    assert torch.equal(new[0], old[0])


def test_category_weights_are_found_by_name(root: Path, recipe: Recipe, tmp_path: Path) -> None:
    old = trained(root)
    new = weights(start_run(recipe, root / "later", tmp_path / "run", False, root / "run"))
    project = "item_encoder.modalities.category.project.weight"
    for column, name in enumerate(NEW_CATEGORIES):
        if name in CATEGORIES:
            before = CATEGORIES.index(name)
            assert torch.equal(new[project][:, column], old[project][:, before])
            for part in ("weight", "bias"):
                key = f"loss.predict.category.{part}"
                assert torch.equal(new[key][column], old[key][before])


def test_all_else_is_copied_with_the_statistics_of_the_features(
    root: Path, recipe: Recipe, tmp_path: Path
) -> None:
    trainer = start_run(recipe, root / "later", tmp_path / "run", False, root / "run")
    old, new = trained(root), weights(trainer)
    by_name = ("item_encoder.ids", "item_encoder.modalities.category", "loss.predict.category")
    others = [name for name in new if not name.startswith(by_name)]
    assert len(others) > 30
    assert all(torch.equal(new[name], old[name]) for name in others)
    features = np.load(root / "later/features/text.npy")
    fresh = features[np.load(root / "later/features/text_present.npy")].mean(0)
    kept = new["item_encoder.modalities.text.mean_F"].numpy()
    assert not np.allclose(kept, fresh)
    assert trainer.progress.epoch == 0
    assert not trainer.optimizer.state_dict()["state"]


def test_features_of_another_encoder_are_learned_anew(
    root: Path, recipe: Recipe, tmp_path: Path
) -> None:
    data = write_features(write_shop(tmp_path / "data"), "image", "text")
    described = json.loads((data / "features/features.json").read_text())
    described["text"]["spec"]["encoder"] = "another"
    (data / "features/features.json").write_text(json.dumps(described))
    trainer = start_run(recipe, data, tmp_path / "run", False, root / "run")
    old, new = trained(root), weights(trainer)
    text = "item_encoder.modalities.text"
    fresh = start_run(recipe, data, tmp_path / "fresh", False)
    for part in ("project.weight", "project.bias", "mean_F", "std_F"):
        assert torch.equal(new[f"{text}.{part}"], weights(fresh)[f"{text}.{part}"])
    assert not torch.equal(new[f"{text}.project.weight"], old[f"{text}.project.weight"])
    assert torch.equal(new[f"{text}.missing_S"], old[f"{text}.missing_S"])
    image = "item_encoder.modalities.image.project.weight"
    assert torch.equal(new[image], old[image])
    encoder = trainer.model.item_encoder.modalities["text"]
    assert isinstance(encoder, ModalityEncoder)
    assert trainer.warm_start is not None
    assert f"{text}.project.weight" in trainer.warm_start.new


def test_an_unknown_item_that_was_never_trained_is_no_beginning(
    root: Path, recipe: Recipe, tmp_path: Path
) -> None:
    never = replace(recipe, model=replace(recipe.model, id_dropout=0.0))
    train(never, root / "before", tmp_path / "old")
    trainer = start_run(never, root / "later", tmp_path / "run", False, tmp_path / "old")
    ids = weights(trainer)["item_encoder.ids.weight"]
    new = ids[1 + ids_of(root / "later").index("item-new")]
    assert not torch.equal(new, ids[0])
    assert bool((new != 0).any())
    assert trainer.warm_start is not None
    assert "at random" in trainer.warm_start.lines()[3]


def test_it_says_what_was_copied_mapped_new_and_dropped(
    root: Path, recipe: Recipe, tmp_path: Path
) -> None:
    deeper = replace(
        recipe, model=replace(recipe.model, sources=("id", "position", "text"), max_length=6)
    )
    trainer = start_run(deeper, root / "later", tmp_path / "run", False, root / "run")
    assert trainer.warm_start is not None
    first, copied, mapped, new, dropped = trainer.warm_start.lines()
    assert str(root / "run") in first
    assert copied.split()[0] == "copied"
    assert "39 items and 3 categories by name" in mapped
    assert "1 items (as the unknown item), 1 categories, 1 weights: positions.weight" in new
    assert dropped.startswith("  dropped  1 items, 0 categories, ")
    assert "blocks.0.attention.key.image.weight" in dropped


def test_the_average_begins_with_the_weights_too(
    root: Path, recipe: Recipe, tmp_path: Path
) -> None:
    averaged = replace(recipe, fit=replace(recipe.fit, average_decay=0.9))
    trainer = start_run(averaged, root / "later", tmp_path / "run", False, root / "run")
    assert trainer.average is not None
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(trainer.average.averaged[name], parameter), name


def test_another_width_is_one_clear_error(root: Path, recipe: Recipe, tmp_path: Path) -> None:
    wider = replace(recipe, model=replace(recipe.model, width=32))
    with pytest.raises(MmsrError, match=r"\[model\] width = 32, but .*run has 16"):
        start_run(wider, root / "later", tmp_path / "run", False, root / "run")
    assert not (tmp_path / "run").exists()


def test_a_final_run_would_give_away_what_is_held_out(
    root: Path, recipe: Recipe, tmp_path: Path
) -> None:
    final = start_final(root / "run", None, tmp_path / "final", resume=False)
    final.run(tmp_path / "final", QUIET)
    with pytest.raises(MmsrError, match=f"is a final run: .*begin with .*{root / 'run'}"):
        start_run(recipe, root / "later", tmp_path / "new", False, tmp_path / "final")


def test_a_run_stopped_before_its_first_checkpoint_begins_with_the_same_weights_again(
    root: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    one = weights(start_run(recipe, root / "later", run, False, root / "run"))
    two = weights(start_run(recipe, root / "later", run, True))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    other = tmp_path / "other"
    train(recipe, root / "before", other)
    with pytest.raises(MmsrError, match=r"was begun with the weights of .*run, not with .*other"):
        start_run(recipe, root / "later", run, True, other)


def test_a_source_that_has_changed_meanwhile_is_refused(
    root: Path, recipe: Recipe, tmp_path: Path
) -> None:
    source, run = tmp_path / "source", tmp_path / "run"
    train(recipe, root / "before", source)
    start_run(recipe, root / "later", run, False, source)
    longer = replace(recipe, fit=replace(recipe.fit, epochs=4, patience=4))
    start_run(longer, root / "before", source, True).run(source, QUIET)
    with pytest.raises(MmsrError, match="has changed"):
        start_run(recipe, root / "later", run, True)


def test_names_are_kept_with_the_run_and_asked_of_its_data_only_where_they_are_not(
    root: Path, recipe: Recipe, tmp_path: Path
) -> None:
    data = write_features(write_shop(tmp_path / "data"), "image", "text")
    old = tmp_path / "old"
    train(recipe, data, old)
    (old / NAMES).unlink()
    start_run(recipe, root / "later", tmp_path / "a", False, old)
    info = json.loads((data / "data.json").read_text())
    (data / "data.json").write_text(json.dumps(info | {"content_hash": "replaced"}))
    with pytest.raises(MmsrError, match=r"has no names\.parquet, and .* no longer holds"):
        start_run(recipe, root / "later", tmp_path / "b", False, old)
