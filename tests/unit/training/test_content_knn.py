"""Nearest neighbours by content beside brute force."""

import numpy as np
import pytest
import torch

from mmsr.bundle.errors import MmsrError
from mmsr.training.baselines.content_knn import content_knn_scorer, content_vectors
from mmsr.training.items import ItemContent

ITEMS = 12
BARE, ONLY_TEXT, ONLY_IMAGE = 4, 5, 6


def make_content(*modalities: str) -> ItemContent:
    random = torch.Generator().manual_seed(0)
    widths = {"text": 5, "image": 3}
    features = {m: torch.randn(ITEMS + 1, widths[m], generator=random) + 2 for m in modalities}
    present = {m: torch.ones(ITEMS + 1, dtype=torch.bool) for m in modalities}
    for m in modalities:
        present[m][[0, BARE, ONLY_IMAGE if m == "text" else ONLY_TEXT]] = False
    return ItemContent(features=features, present=present)


def unit(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else vector


def brute_force(content: ItemContent, history: list[int]) -> list[float]:
    vectors = {}
    for row in range(ITEMS + 1):
        parts = []
        for m in ("text", "image"):
            if m not in content.features:
                continue
            known = content.features[m][content.present[m]].numpy()
            own = content.features[m][row].numpy() - known.mean(0)
            parts.append(unit(own) if content.present[m][row] else np.zeros_like(own))
        vectors[row] = unit(np.concatenate(parts))
    mean = unit(np.mean([vectors[row] for row in history[-3:]], axis=0))
    return [float(mean @ vectors[row]) if vectors[row].any() else -1.0 for row in range(ITEMS + 1)]


@pytest.mark.parametrize("modalities", [("text",), ("image",), ("text", "image")])
def test_scores_are_cosines_with_the_mean_of_the_last_three(modalities: tuple[str, ...]) -> None:
    content = make_content(*modalities)
    histories = [[1, 2, 3, 7, 8], [9], [2, BARE], [ONLY_TEXT, ONLY_IMAGE, 11]]
    scores = content_knn_scorer(content)([np.array(h, dtype=np.int32) for h in histories])
    assert scores.shape == (4, ITEMS + 1)
    for line, history in zip(scores, histories, strict=True):
        assert np.allclose(line.numpy(), brute_force(content, history), atol=1e-6)


def test_an_item_is_its_own_nearest_neighbour() -> None:
    scores = content_knn_scorer(make_content("text", "image"))([np.array([7], dtype=np.int32)])
    assert int(scores[0].argmax()) == 7
    assert float(scores[0, 7]) == pytest.approx(1.0, abs=1e-6)


def test_a_history_without_features_says_nothing_and_gives_numbers() -> None:
    scores = content_knn_scorer(make_content("text"))([np.array([BARE], dtype=np.int32)])
    assert sorted(set(scores[0].tolist())) == [-1.0, 0.0]


def test_what_an_item_lacks_cannot_be_read_from_its_features() -> None:
    content = make_content("text", "image")
    before = content_vectors(content)
    content.features["text"][[0, BARE, ONLY_IMAGE]] = 77.0
    assert torch.equal(content_vectors(content), before)


def test_without_any_features_it_says_so() -> None:
    content = make_content("text")
    content.present["text"][:] = False
    for nothing in (content, ItemContent(features={}, present={})):
        with pytest.raises(MmsrError, match="no item has text or image features"):
            content_knn_scorer(nothing)
