import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.tiny_bundle import Shop
from support.tiny_encoders import SIDE, TOKENS, publish_with_encoders, tokenizer

from mmsr.bundle.errors import BundleError
from mmsr.engine.encoders import count_tokens
from mmsr.engine.errors import Unavailable
from mmsr.engine.model import SequenceModel, open_model


@pytest.fixture(scope="module")
def encoding_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish_with_encoders(tmp_path_factory.mktemp("encoders") / "repository")


@pytest.fixture
def opened(encoding_shop: Shop) -> Iterator[SequenceModel]:
    model = open_model(encoding_shop.folder, threads=1)
    yield model
    model.close()


def test_a_bundle_has_the_encoders_that_its_manifest_names(
    opened: SequenceModel, model: SequenceModel
) -> None:
    assert list(opened.encoders) == ["image_encoder", "text_encoder"]
    assert not model.encoders


def test_images_become_features_in_one_batch(opened: SequenceModel) -> None:
    pixels = [np.full((SIDE, SIDE, 3), value, np.uint8) for value in (0, 7, 255)]
    features = opened.encoders["image_encoder"].encode([{"pixels": p} for p in pixels])
    assert [feature.tolist() for feature in features] == [[0] * 3, [7] * 3, [255] * 3]


def test_texts_of_other_lengths_do_not_disturb_each_other(opened: SequenceModel) -> None:
    texts = [[3, 4, 5], [9], [1, 2]]
    rows = [{"input_ids": np.array(t), "attention_mask": np.ones(len(t), np.int64)} for t in texts]
    features = opened.encoders["text_encoder"].encode(rows)
    assert [feature.tolist() for feature in features] == [[12, 3], [9, 1], [3, 2]]


def test_a_closed_encoder_sends_its_callers_elsewhere(opened: SequenceModel) -> None:
    encoder = opened.encoders["image_encoder"]
    encoder.close()
    with pytest.raises(Unavailable):
        encoder.encode([{"pixels": np.zeros((SIDE, SIDE, 3), np.uint8)}])


def test_tokens_are_counted_with_those_that_were_added(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer()))
    assert count_tokens(path) == TOKENS
    path.write_text(json.dumps({"model": {"vocab": [["a", -1.0], ["b", -2.0]]}}))
    assert count_tokens(path) == 2


@pytest.mark.parametrize("text", ["{}", "no JSON", '{"model": {"vocab": {}}}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(BundleError, match="tokenizer"):
        count_tokens(path)
