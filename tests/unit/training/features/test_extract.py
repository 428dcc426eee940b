import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from mmsr.bundle.compose import compose_text
from mmsr.bundle.preprocess import load_pixels
from mmsr.training.dataset import Dataset
from mmsr.training.features import images, inference
from mmsr.training.features.config import FeaturesConfig, FeaturesError
from mmsr.training.features.extract import extract_features
from mmsr.training.features.image_encoder import restore_image_encoder
from mmsr.training.features.specs import ImageEncoderSpec, TextEncoderSpec
from mmsr.training.features.store import features_folder, open_features
from mmsr.training.features.text_encoder import restore_text_encoder

MakeShop = Callable[..., Dataset]
Draw = Callable[..., Path]

# A batch adds up in another order than a text or picture alone: measured below 1e-5.
ATOL = 1e-4


def alone(dataset: Dataset) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Encode every item by itself, as serving does, from the stored descriptions."""
    found = open_features(dataset)
    assert found.image
    assert found.text
    image_spec = ImageEncoderSpec.from_json(found.image.spec)
    text_spec = TextEncoderSpec.from_json(found.text.spec)
    image_encoder = restore_image_encoder(image_spec)
    text_encoder, tokenizer = restore_text_encoder(text_spec)
    pictures, texts = np.zeros_like(found.image.values_ND), np.zeros_like(found.text.values_ND)
    for row, item in enumerate(dataset.item_table().to_pylist()):
        path = dataset.image_root / (item["image"] or "none")
        if path.is_file() and path.name != "broken.jpg":
            pixels = load_pixels(path.read_bytes(), image_spec.preprocess)
            pictures[row] = image_encoder(torch.tensor(pixels[None]))[0].numpy()
        if text := compose_text(item, text_spec.text_fields):
            tokens = tokenizer([text], truncation=True, return_tensors="pt")
            texts[row] = text_encoder(tokens["input_ids"], tokens["attention_mask"])[0].numpy()
    return pictures, texts


def counts(report: Any) -> tuple[int, int, int, int]:
    return report.present, report.encoded, report.cached, len(report.rejected)


def test_every_item_gets_the_feature_of_its_own_content(
    make_shop: MakeShop, draw: Draw, tiny: FeaturesConfig
) -> None:
    for seed in range(6):
        draw(f"{seed}.png", seed)
    draw("twin.png", 0)
    (draw("broken.jpg").parent / "broken.jpg").write_bytes(b"no picture")
    names = [*(f"{seed}.png" for seed in range(6)), "twin.png", None, "broken.jpg", "absent.png"]
    words = ["red shoe", "blue shoe", "", "red shoe", *("long " * n for n in range(1, 7))]
    dataset = make_shop(
        [{"image": name, "title": title} for name, title in zip(names, words, strict=True)]
    )
    report = extract_features(dataset, tiny)
    assert counts(report.image) == (7, 6, 0, 2)  # the twin shares one
    assert counts(report.text) == (9, 8, 0, 0)  # two shoes are equal
    found = open_features(dataset)
    assert found.image
    assert found.text
    assert found.image.present_N.tolist() == [True] * 7 + [False] * 3
    assert found.text.present_N.tolist() == [True, True, False] + [True] * 7
    pictures, texts = alone(dataset)
    np.testing.assert_allclose(found.image.values_ND, pictures, rtol=0, atol=ATOL)
    np.testing.assert_allclose(found.text.values_ND, texts, rtol=0, atol=ATOL)
    assert len(np.unique(found.image.values_ND, axis=0)) == 7  # six pictures and the zeros
    check_the_report(features_folder(dataset))
    # The second run encodes what changed: one picture, one text.
    draw("3.png", seed=99)
    items = dataset.item_table(["image", "title"]).to_pylist()
    changed = make_shop([*items[:-1], {"image": None, "title": "new"}], content_hash="hash-2")
    with pytest.raises(FeaturesError, match="the data have changed since"):
        open_features(changed)
    report = extract_features(changed, replace(tiny, image_batch=1, workers=2))
    assert counts(report.image) == (7, 1, 5, 1)
    assert counts(report.text) == (9, 1, 7, 0)
    pictures, texts = alone(changed)
    found = open_features(changed)
    assert found.image
    assert found.text
    np.testing.assert_allclose(found.image.values_ND, pictures, rtol=0, atol=ATOL)
    np.testing.assert_allclose(found.text.values_ND, texts, rtol=0, atol=ATOL)


def check_the_report(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    reason = "not an image (10 bytes)"
    assert lines == [
        {"modality": "image", "item_id": "item-9", "image": "broken.jpg", "reason": reason},
        {
            "modality": "image",
            "item_id": "item-10",
            "image": "absent.png",
            "reason": "file not found",
        },
    ]
    report = json.loads((folder / "report.json").read_text())
    assert report["image"]["rejected"] == {reason: 1, "file not found": 1}
    assert report["text"]["encoded"] == 8


def test_items_without_images_need_no_image_encoder(
    make_shop: MakeShop, tiny: FeaturesConfig
) -> None:
    dataset = make_shop([{"title": "a"}, {"title": "b", "image": "absent.png"}])
    settings = replace(tiny, random_weights=False, image_weights="absent.pth")
    report = extract_features(dataset, settings)
    assert counts(report.image) == (0, 0, 0, 1)
    assert open_features(dataset).image is None
    assert not list(features_folder(dataset).glob("image*"))
    described = json.loads((features_folder(dataset) / "features.json").read_text())
    assert described["image"] is None
    assert described["text"]["present"] == 2
    assert described["settings"]["image_weights"] == "absent.pth"


def test_items_without_texts_need_no_text_encoder(
    make_shop: MakeShop, draw: Draw, tiny: FeaturesConfig
) -> None:
    draw("a.png")
    dataset = make_shop([{"image": "a.png", "title": " \n"}])
    extract_features(dataset, replace(tiny, text_encoder="./absent"))
    assert open_features(dataset).text is None
    # When the last picture goes, its matrix goes too.
    again = make_shop([{"title": None}], content_hash="hash-2")
    extract_features(again, replace(tiny, text_encoder="./absent"))
    assert open_features(again).image is None
    assert not list(features_folder(again).glob("*.npy"))


class FailsAt:
    """Encodes for real until a given batch."""

    def __init__(self, batch: int) -> None:
        self.left = batch

    def __call__(self, encoder: nn.Module, *inputs: Any) -> npt.NDArray[np.float32]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return inference.encode(encoder, *inputs)


def test_an_interrupted_run_is_taken_up_where_it_stopped(
    make_shop: MakeShop, draw: Draw, tiny: FeaturesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(11):
        draw(f"{seed}.png", seed)
    dataset = make_shop([{"image": f"{seed}.png"} for seed in range(11)])
    with monkeypatch.context() as patched:
        patched.setattr(images, "encode", FailsAt(batch=2))
        with pytest.raises(KeyboardInterrupt):
            extract_features(dataset, tiny)
    with pytest.raises(FeaturesError, match=r"has no features .* run: mmsr-train features"):
        open_features(dataset)
    stray = features_folder(dataset) / "cache" / ".half-written.tmp"
    stray.touch()
    report = extract_features(dataset, tiny)
    assert counts(report.image) == (11, 3, 8, 0)
    assert not stray.exists()


def test_a_second_writer_is_refused(make_shop: MakeShop, tiny: FeaturesConfig) -> None:
    dataset = make_shop([{"title": "a"}])
    folder = features_folder(dataset)
    folder.mkdir()
    holder = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(folder / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FeaturesError, match="is being written by another"):
            extract_features(dataset, tiny)
        other.kill()


def test_values_that_are_not_finite_are_refused() -> None:
    encoder = nn.Linear(2, 3)
    inference.encode(encoder, np.ones((1, 2), np.float32))
    nn.init.constant_(encoder.weight, float("nan"))
    with pytest.raises(FeaturesError, match="the Linear answers values that are not finite"):
        inference.encode(encoder, np.ones((1, 2), np.float32))


def test_texts_are_composed_of_the_fields_asked_for(
    make_shop: MakeShop, tiny: FeaturesConfig
) -> None:
    items = [
        {"title": "shoe", "brand": "Acme", "categories": ["Shoes"]},
        {"title": "shoe", "brand": "Other", "categories": ["Shoes"]},
    ]
    dataset = make_shop(items)
    assert counts(extract_features(dataset, tiny).text) == (2, 2, 0, 0)
    fewer = replace(tiny, text_fields=("title",))
    assert counts(extract_features(dataset, fewer).text) == (2, 1, 0, 0)


def test_the_cache_is_pruned_to_what_the_items_use(
    make_shop: MakeShop, draw: Draw, tiny: FeaturesConfig
) -> None:
    for seed in range(3):
        draw(f"{seed}.png", seed)
    rows = [{"image": f"{seed}.png"} for seed in range(3)]
    assert extract_features(make_shop(rows), tiny).freed_bytes is None
    fewer = make_shop(rows[:2], content_hash="hash-2")
    cache = features_folder(fewer) / "cache"
    (shard,) = cache.glob("*/shard-*.npy")
    three_bytes = shard.stat().st_size
    shutil.copytree(shard.parent, cache / "of-another-encoder")
    report = extract_features(fewer, tiny, prune=True)
    assert counts(report.image) == (2, 0, 2, 0)
    assert list(cache.glob("*/")) == [shard.parent]
    assert len(np.load(shard)) == 2
    assert report.freed_bytes == 2 * three_bytes - shard.stat().st_size
    # Pictures that are away for now are dear to encode again.
    for seed in range(3):
        (fewer.image_root / f"{seed}.png").unlink()
    assert extract_features(fewer, tiny, prune=True).freed_bytes is None
    assert shard.exists()
