import json
from dataclasses import replace
from typing import Any

import pytest

from mmsr.bundle.preprocess import ImagePreprocess
from mmsr.training.features.config import FeaturesError
from mmsr.training.features.specs import ImageEncoderSpec, TextEncoderSpec

IMAGE = ImageEncoderSpec(
    encoder="vgg16",
    layer="gap",
    dim=512,
    preprocess=ImagePreprocess(size=224),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    weights_source="file:w.pth",
    weights_path="/somewhere/w.pth",
    weights_sha256="ab" * 32,
)
TEXT = TextEncoderSpec(
    encoder="bert",
    source="folder:bert",
    path="/somewhere/bert",
    dim=384,
    pool="mean",
    max_tokens=128,
    text_fields=("title", "brand"),
    weights_sha256="ab" * 32,
    tokenizer_sha256="cd" * 32,
)


def test_a_spec_survives_json() -> None:
    assert ImageEncoderSpec.from_json(json.loads(json.dumps(IMAGE.to_json()))) == IMAGE
    assert TextEncoderSpec.from_json(json.loads(json.dumps(TEXT.to_json()))) == TEXT


@pytest.mark.parametrize(
    "changed",
    [
        {"layer": "fc7"},
        {"preprocess": ImagePreprocess(size=64)},
        {"weights_sha256": "00" * 32},
        {"encoder": "vgg19"},
    ],
)
def test_what_shapes_image_features_is_in_the_cache_key(changed: dict[str, Any]) -> None:
    assert replace(IMAGE, **changed).cache_key != IMAGE.cache_key


@pytest.mark.parametrize(
    "changed",
    [
        {"pool": "cls"},
        {"max_tokens": 64},
        {"weights_sha256": "00" * 32},
        {"tokenizer_sha256": "00" * 32},
    ],
)
def test_what_shapes_text_features_is_in_the_cache_key(changed: dict[str, Any]) -> None:
    assert replace(TEXT, **changed).cache_key != TEXT.cache_key


def test_where_the_weights_lay_is_not_in_the_cache_key() -> None:
    moved = replace(IMAGE, weights_path=None, weights_source="hub:IMAGENET1K_V1")
    assert moved.cache_key == IMAGE.cache_key
    assert replace(TEXT, path=None, source="hub:bert").cache_key == TEXT.cache_key


def test_the_fields_joined_are_not_in_the_cache_key_since_the_text_is() -> None:
    assert replace(TEXT, text_fields=("title",)).cache_key == TEXT.cache_key


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "received NoneType"),
        ({k: v for k, v in IMAGE.to_json().items() if k != "dim"}, "(dim)"),
        (IMAGE.to_json() | {"colour": 1}, "(colour)"),
        (IMAGE.to_json() | {"mean": [1.0]}, "described wrongly"),
        (IMAGE.to_json() | {"preprocess": {"sise": 3}}, "described wrongly"),
    ],
)
def test_a_spec_of_another_form_is_refused(raw: Any, message: str) -> None:
    with pytest.raises(FeaturesError) as error:
        ImageEncoderSpec.from_json(raw)
    assert message in str(error.value)
