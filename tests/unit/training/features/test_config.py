from typing import Any

import pytest

from mmsr.training.features.config import (
    SPEED_FIELDS,
    FeaturesConfig,
    FeaturesError,
    features_config,
)


def test_an_empty_table_gives_the_defaults() -> None:
    assert features_config({}, "toy.toml [features]") == FeaturesConfig()


def test_a_table_is_read() -> None:
    table = {"image_encoder": "resnet18", "text_fields": ["title", "brand"], "workers": 3}
    config = features_config(table, "toy.toml [features]")
    assert config.image_encoder == "resnet18"
    assert config.text_fields == ("title", "brand")
    assert config.workers == 3


def test_an_unknown_key_is_refused_with_the_list_of_known_ones() -> None:
    with pytest.raises(
        FeaturesError, match=r"toy.toml \[features\]: unknown key 'image_encodr'; "
    ) as e:
        features_config({"image_encodr": "vgg16"}, "toy.toml [features]")
    assert "image_encoder, image_layer" in str(e.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"image_layer": "fc6"}, "image_layer 'fc6'; expected one of gap, fc7"),
        ({"text_pool": "max"}, "text_pool 'max'; expected one of mean, cls, pooler"),
        ({"image_encoder": 3}, "image_encoder 3; expected str"),
        ({"image_weights": 3}, "image_weights 3; expected str or none"),
        ({"max_tokens": True}, "max_tokens True; expected int"),
        ({"max_tokens": 2}, "max_tokens 2; expected at least 3"),
        ({"random_weights": 1}, "random_weights 1; expected bool"),
        ({"workers": 0}, "workers 0; expected at least 1"),
        ({"image_size": 0}, "image_size 0; expected at least 1"),
        ({"image_batch": 1.5}, "image_batch 1.5; expected int"),
        ({"random_seed": -1}, "random_seed -1; expected at least 0"),
        ({"text_fields": "title"}, "text_fields 'title'; expected a list of names"),
        ({"text_fields": []}, "expected each at most once of title, brand"),
        ({"text_fields": ["title", "title"]}, "expected each at most once of title, brand"),
        ({"text_fields": ["price"]}, "expected each at most once of title, brand"),
        ({"random_weights": True, "image_weights": "a.pth"}, "exclude each other"),
    ],
)
def test_a_bad_value_is_refused_with_the_place_it_stands_in(
    table: dict[str, Any], message: str
) -> None:
    with pytest.raises(FeaturesError, match=r"^c\.toml: ") as error:
        features_config(table, "c.toml")
    assert message in str(error.value)


def test_what_is_only_about_speed_does_not_shape_the_features() -> None:
    fast = FeaturesConfig(image_batch=1, text_batch=1, workers=1)
    assert fast.shaping() == FeaturesConfig().shaping()
    assert not SPEED_FIELDS & set(fast.shaping())
    assert FeaturesConfig(max_tokens=64).shaping() != fast.shaping()
