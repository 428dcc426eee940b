"""What an engine is asked, and what is allowed of its answers."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.every_file import publish_every_file
from support.tiny_live import CATEGORIES

from mmsr.bundle.manifest import Manifest
from mmsr.engine.opened import OpenedBundle, open_bundle
from mmsr.export.tensorrt.compare import FEATURES, ITEM_ROWS, EngineParity
from mmsr.export.tensorrt.engines import require_fp32
from mmsr.export.tensorrt.flavour import TensorRTError
from mmsr.export.tensorrt.samples import SAMPLES, Samples, pictures

SOUND = EngineParity(
    samples=32, min_cosine=0.99999, max_distance=0.004, of_spread=0.004, max_error=0.001
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> OpenedBundle:
    return open_bundle(publish_every_file(tmp_path_factory.mktemp("shop")).folder)


@pytest.fixture
def samples(bundle: OpenedBundle) -> Samples:
    widths = {"image_encoder": 3, "text_encoder": 5}
    return Samples(bundle, lambda graph: np.arange(40 * widths[graph]).reshape(40, -1) + 1.0)


def test_pictures_are_the_same_each_time_all_different_and_reach_both_ends() -> None:
    found = pictures(24)
    assert found.shape == (SAMPLES, 24, 24, 3)
    assert found.dtype == np.uint8
    assert (found == pictures(24)).all()
    assert len({picture.tobytes() for picture in found}) == SAMPLES
    assert [int(found.min()), int(found.max())] == [0, 255]
    # Neighbours are alike, as in a photograph: far nearer than any two pixels.
    smooth = found[:-4].astype(float)
    assert np.abs(np.diff(smooth, axis=1)).mean() < 0.25 * smooth.std()
    assert pictures(1).shape == (SAMPLES, 1, 1, 3)


def test_texts_are_the_catalogues_own_and_drawn_ones_up_to_the_longest(samples: Samples) -> None:
    real, drawn = samples.of("text_encoder")
    assert len(real["input_ids"]) == SAMPLES
    assert (drawn["attention_mask"].sum(axis=1)[[0, -1]] == [1, 256]).all()
    for batch in (real, drawn):
        assert batch["input_ids"].dtype == batch["attention_mask"].dtype == np.int64
        assert not batch["input_ids"][batch["attention_mask"] == 0].any()


def test_items_have_their_categories_and_lack_everything_in_turn(
    samples: Samples, bundle: OpenedBundle
) -> None:
    (batch,) = samples.of("item")
    names = {tensor.name for tensor in bundle.manifest.graphs["item"].inputs}
    assert batch.keys() == names - {"id_table"}
    assert set(batch["id_row"][::4]) == {0}  # new items, without a trained id
    assert batch["id_row"].max() == bundle.manifest.tables.items
    assert batch["category"].shape == (SAMPLES, len(CATEGORIES))
    for modality in ("image", "text"):
        assert 0 < batch[f"{modality}_present"].sum() < SAMPLES
    assert (batch["image"][1] == [4, 5, 6]).all()  # of the second picture


def said(parity: EngineParity, precision: str = "fp16") -> str:
    return "; ".join(parity.problems(FEATURES[precision]))


def test_each_number_alone_refuses_an_engine_and_says_by_how_much() -> None:
    assert said(SOUND) == ""
    assert "cosine 0.900000, at least 0.999" in said(replace(SOUND, min_cosine=0.9))
    assert "distance 0.5, at most 0.0447" in said(replace(SOUND, max_distance=0.5))
    assert "error 1 of the samples' own spread" in said(replace(SOUND, of_spread=1.0))
    for parity in (
        replace(SOUND, min_cosine=math.nan),
        replace(SOUND, max_distance=math.nan),
        replace(SOUND, of_spread=math.nan),
    ):
        assert "nan" in said(parity)


def test_fp32_is_held_to_more_than_fp16_and_rows_of_items_to_more_than_features() -> None:
    assert FEATURES.keys() == ITEM_ROWS.keys() == {"fp32", "fp16"}
    for loose, strict in (
        (FEATURES["fp16"], FEATURES["fp32"]),
        (ITEM_ROWS["fp16"], ITEM_ROWS["fp32"]),
        *((FEATURES[name], ITEM_ROWS[name]) for name in FEATURES),
    ):
        assert strict.cosine > loose.cosine
        assert strict.of_spread < loose.of_spread


def test_a_text_encoder_in_eight_bits_is_refused_before_anything_is_built(
    bundle: OpenedBundle,
) -> None:
    manifest: Manifest = replace(bundle.manifest, provenance={"text_precision": "int8"})
    with pytest.raises(
        TensorRTError, match=r"text_encoder graph is in int8.*--text-precision fp32"
    ):
        require_fp32("text_encoder", manifest)
    require_fp32("sequence", manifest)


def test_a_bundle_of_one_item_has_samples(tmp_path: Path, bundle: OpenedBundle) -> None:
    few = replace(
        bundle, manifest=replace(bundle.manifest, tables=replace(bundle.manifest.tables, items=1))
    )
    (batch,) = Samples(few, lambda graph: np.ones((2, 3 if graph == "image_encoder" else 5))).of(
        "item"
    )
    assert batch["id_row"].tolist() == [0]
