"""Prepared data and features -> the tensors that the item side reads."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmsr.training.config import ModelConfig
from mmsr.training.dataset import Dataset
from mmsr.training.features.store import Features, ModalityFeatures
from mmsr.training.items import ItemContent, category_multi_hot

CONTROL_SEED = 0  # the same wrong items and the same noise whatever the seed of the training


def load_content(dataset: Dataset, features: Features, config: ModelConfig) -> ItemContent:
    """Return the content of rows 0..N; row 0 (padding) has none of anything.

    The modalities of `config.shuffle` are joined to the wrong items, those of `config.noise` drawn
    at random.
    """
    values: dict[str, Tensor] = {}
    present: dict[str, Tensor] = {}
    for modality in config.modalities:
        if modality == "category":
            values[modality] = _multi_hot(dataset)
            present[modality] = values[modality].any(1)
        else:
            values[modality], present[modality] = _with_padding(
                getattr(features, modality), dataset.info.items
            )
    for modality in config.shuffle:
        values[modality] = _join_wrongly(values[modality], present[modality], modality)
    for modality in config.noise:
        values[modality] = _noise(values[modality], present[modality], modality)
    return ItemContent(features=values, present=present)


def feature_widths(content: ItemContent) -> dict[str, int]:
    """Return the number of features of each modality in use."""
    return {m: x.shape[1] for m, x in content.features.items()}


def feature_specs(features: Features, config: ModelConfig) -> dict[str, Any]:
    """Return how each modality in use was encoded; null: no item has it."""
    return {
        m: None if (found := getattr(features, m)) is None else found.spec
        for m in ("image", "text")
        if m in config.modalities
    }


def content_hashes(content: ItemContent) -> dict[str, str]:
    """Return the SHA-256 of each modality's features and presence, in hex."""
    hashes = {}
    for modality, features in content.features.items():
        digest = hashlib.sha256(features.numpy().data)
        digest.update(content.present[modality].numpy().data)
        hashes[modality] = digest.hexdigest()
    return hashes


def _join_wrongly(values_NF: Tensor, present_N: Tensor, modality: str) -> Tensor:
    """Hand the features round one ring of all items that have the modality, in random order.

    No item keeps its own (unless it is the only one), and none comes by or loses the modality, so
    that a model can learn from presence and from the set of features, and only not from the join.
    """
    random = np.random.default_rng([CONTROL_SEED, *modality.encode()])
    ring_n = torch.from_numpy(random.permutation(np.flatnonzero(present_N.numpy())))
    shuffled_NF = values_NF.clone()
    shuffled_NF[ring_n] = values_NF[ring_n.roll(1)]
    return shuffled_NF


def _noise(values_NF: Tensor, present_N: Tensor, modality: str) -> Tensor:
    """Return features that say nothing of any item: who has the modality is all that is left.

    Normal noise for image and text; for categories as many as the item has, any of them alike.
    """
    random = np.random.default_rng([CONTROL_SEED, *modality.encode()])
    noise_NF = torch.from_numpy(random.standard_normal(values_NF.shape, np.float32))
    if modality == "category":
        place_NF = noise_NF.argsort(1).argsort(1)  # a random order of the categories, per item
        noise_NF = (place_NF < values_NF.sum(1, keepdim=True)).float()
    return torch.where(present_N[:, None], noise_NF, values_NF)


def _with_padding(found: ModalityFeatures | None, items: int) -> tuple[Tensor, Tensor]:
    if found is None:  # no item has the modality: one constant feature, missing everywhere
        return torch.zeros(items + 1, 1), torch.zeros(items + 1, dtype=torch.bool)
    values_NF = np.zeros((items + 1, found.dim), dtype=np.float32)
    values_NF[1:] = found.values_ND
    present_N = np.concatenate([[False], found.present_N])
    return torch.from_numpy(values_NF), torch.from_numpy(present_N)


def _multi_hot(dataset: Dataset) -> Tensor:
    vocabulary = {name: index for index, name in enumerate(dataset.info.categories)}
    lists = dataset.item_table(["categories"])["categories"].to_pylist()
    rows = [[], *([vocabulary[c] for c in names or []] for names in lists)]
    return category_multi_hot(rows, max(1, len(vocabulary)))
