"""Content of a data set, and the controls: joined to the wrong items, or noise instead."""

from pathlib import Path

import pytest
import torch
from support.small_features import write_features
from support.small_shop import ITEMS, write_shop

from mmsr.bundle.errors import MmsrError
from mmsr.training.config import ModelConfig, parse_recipe
from mmsr.training.content import content_hashes, load_content
from mmsr.training.dataset import open_dataset
from mmsr.training.features.store import open_features
from mmsr.training.items import ItemContent


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(write_shop(tmp_path_factory.mktemp("shop") / "data"), "image", "text")


def load(shop: Path, *shuffle: str, noise: tuple[str, ...] = ()) -> ItemContent:
    dataset = open_dataset(shop)
    config = ModelConfig(shuffle=shuffle, noise=noise)
    return load_content(dataset, open_features(dataset), config)


@pytest.mark.parametrize("modality", ["image", "text", "category"])
def test_shuffled_content_is_the_same_content_with_other_items(shop: Path, modality: str) -> None:
    right, wrong = load(shop), load(shop, modality)
    present = right.present[modality]
    assert 0 < int(present.sum()) < ITEMS
    assert torch.equal(wrong.present[modality], present)
    before, after = right.features[modality], wrong.features[modality]
    assert torch.equal(before[~present], after[~present])
    lines = [sorted(map(tuple, x[present].tolist())) for x in (before, after)]
    assert lines[0] == lines[1]
    if modality != "category":  # three categories: others may have the same
        assert not bool((before[present] == after[present]).all(1).any())
    for other in {"image", "text", "category"} - {modality}:
        assert torch.equal(right.features[other], wrong.features[other])


def test_content_hashes_tell_shuffled_from_joined(shop: Path) -> None:
    right, wrong = content_hashes(load(shop)), content_hashes(load(shop, "text"))
    assert {m for m in right if right[m] != wrong[m]} == {"text"}


def test_shuffling_is_the_same_every_time_and_differs_by_modality(shop: Path) -> None:
    assert content_hashes(load(shop, "text")) == content_hashes(load(shop, "text"))
    both = load(shop, "image", "text")
    right = load(shop)
    at = {}
    for modality in ("image", "text"):
        same = both.features[modality][1][None] == right.features[modality]
        at[modality] = int(same.all(1).nonzero()[0])
    assert at["image"] != at["text"]


@pytest.mark.parametrize("modality", ["image", "text", "category"])
def test_noise_leaves_nothing_but_who_has_the_modality(shop: Path, modality: str) -> None:
    right, noisy = load(shop), load(shop, noise=(modality,))
    present = right.present[modality]
    assert torch.equal(noisy.present[modality], present)
    before, after = right.features[modality], noisy.features[modality]
    assert before.shape == after.shape
    assert before.dtype == after.dtype
    assert torch.equal(before[~present], after[~present])
    if modality == "category":  # as many as before, but others
        assert torch.equal(before.sum(1), after.sum(1))
        assert not torch.equal(before, after)
    else:
        assert not bool((before[present] == after[present]).any())
        assert abs(float(after[present].mean())) < 0.1
        assert abs(float(after[present].std()) - 1) < 0.1
    assert torch.equal(after, load(shop, noise=(modality,)).features[modality])
    for other in {"image", "text", "category"} - {modality}:
        assert torch.equal(right.features[other], noisy.features[other])


def test_a_modality_is_shuffled_or_noise_not_both() -> None:
    with pytest.raises(MmsrError, match=r"shuffle and noise: both name \['text'\]"):
        parse_recipe({"model": {"shuffle": ["text"], "noise": ["text", "image"]}}, "c.toml")
    with pytest.raises(MmsrError, match=r"noise: \['image'\] not among"):
        parse_recipe({"model": {"sources": ["id", "text"], "noise": ["image"]}}, "c.toml")


def test_only_content_in_use_can_be_shuffled() -> None:
    tables = {"model": {"sources": ["id", "text"], "shuffle": ["image"]}}
    with pytest.raises(MmsrError, match=r"\['image'\] not among .*; expected some of: text"):
        parse_recipe(tables, "c.toml")
    with pytest.raises(MmsrError, match="none, as there are none"):
        parse_recipe({"model": {"sources": ["id"], "shuffle": ["text"]}}, "c.toml")
