"""Recipes are checked whole; every error names the file, the key and what is allowed."""

from pathlib import Path

import pytest

from mmsr.bundle.errors import MmsrError
from mmsr.training.config import (
    ConfigError,
    ModelConfig,
    PrepareConfig,
    Recipe,
    load_recipe,
    parse_recipe,
    recipe_to_dict,
)

CONFIGS = Path(__file__).parents[3] / "training" / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda p: p.name)
def test_shipped_recipes_load(path: Path) -> None:
    recipe = load_recipe(path)
    assert parse_recipe(recipe_to_dict(recipe), "again") == recipe


def test_an_empty_recipe_is_the_default() -> None:
    assert parse_recipe({}, "c.toml") == Recipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[modle]", r"unknown table or key 'modle'; known tables: features, fit, loss, model"),
        ("epochs = 3", "unknown table or key 'epochs'"),
        ("[fit]\nepoch = 3", r"unknown key 'epoch' in \[fit\]; known keys: epochs, batch_size"),
        ("[features]\nencoder = 'x'", "unknown key 'encoder'"),
        ("[fit]\nepochs = 'many'", r"\[fit\] epochs = 'many'; expected a value of type int"),
        ("[fit]\nepochs = true", r"\[fit\] epochs = True; expected a value of type int"),
        ("[fit]\nepochs = 0", r"\[fit\] epochs = 0; expected at least 1"),
        ("[fit]\nlearning_rate = 0", r"learning_rate = 0.0; expected above 0"),
        ("[model]\nwidth = 63", r"width = 63 is not a multiple of heads = 2"),
        ("[model]\ndropout = 1.0", r"dropout = 1.0; expected 0 <= dropout < 1"),
        ("[model]\nsources = ['position']", "without 'id' need image, text or category"),
        ("[model]\nsources = ['id', 'smell']", r"unknown \['smell'\]; known: id, position"),
        ("[model]\nsources = ['id', 'id']", "one stands twice"),
        ("[model]\nfusion = 'max'", "fusion = 'max'; expected one of: sum"),
        ("[loss]\ntext_weight = -1", "text_weight = -1.0; expected at least 0"),
        ("[fit", "not readable as TOML"),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(MmsrError, match=message) as caught:
        load_recipe(path)
    assert "c.toml" in str(caught.value)


def test_a_missing_recipe_says_where_others_are(tmp_path: Path) -> None:
    with pytest.raises(MmsrError, match=r"none\.toml not found.*training/configs"):
        load_recipe(tmp_path / "none.toml")


def test_modalities_keep_their_order_whatever_the_recipe_says() -> None:
    assert ModelConfig(sources=("category", "id", "image")).modalities == ("image", "category")


def test_what_prepare_does_may_stand_in_the_recipe_or_not() -> None:
    assert parse_recipe({}, "r").prepare == PrepareConfig()
    told = parse_recipe({"prepare": {"brand_categories": 2}}, "r")
    assert told.prepare == PrepareConfig(brand_categories=2)
    assert parse_recipe(recipe_to_dict(told), "r") == told
    with pytest.raises(ConfigError, match=r"k_core = '5'; expected a value of type int"):
        parse_recipe({"prepare": {"k_core": "5"}}, "r")
    with pytest.raises(ConfigError, match=r"\[prepare\] k_core = 0; expected at least 1"):
        parse_recipe({"prepare": {"k_core": 0}}, "r")
