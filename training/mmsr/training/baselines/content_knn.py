"""Nearest items by frozen features: what content alone gives, without any training.

A history is the mean of its newest items' vectors; items are scored by their cosine with it.
"""

# B users of one call, N items, F features of all modalities together

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mmsr.bundle.errors import MmsrError
from mmsr.training.batches import pad_histories
from mmsr.training.evaluate import Scorer
from mmsr.training.items import ItemContent

NEWEST = 3  # items of the history that are looked at
MODALITIES = ("text", "image")
LEAST_COSINE = -1.0  # of an item without features: content says nothing for it


class NoFeaturesError(MmsrError):
    """No item has the features that nearest neighbours are sought by."""


def content_vectors(content: ItemContent) -> Tensor:
    """Return unit vectors [N + 1, F]; zero where an item has neither text nor image.

    Each modality is centred on the items that have it and brought to unit length, so that both
    count alike; an item with one of the two has zeros in the place of the other.
    """
    parts = [
        _centred(content.features[m], content.present[m])
        for m in MODALITIES
        if m in content.features and bool(content.present[m].any())
    ]
    if not parts:
        raise NoFeaturesError("no item has text or image features to find its neighbours by")
    return F.normalize(torch.cat(parts, dim=1), dim=1)


def content_knn_scorer(content: ItemContent) -> Scorer:
    """Return a scorer of histories by content, for `rank_held_out`.

    Raises `NoFeaturesError` if no item has text or image features.
    """
    vectors_NF = content_vectors(content)
    bare_N = ~vectors_NF.any(1)

    def score(histories: list[npt.NDArray[np.int32]]) -> Tensor:
        newest_BL, _ = pad_histories(histories, NEWEST)
        # Row 0, the padding, is a zero vector; the cosine does not feel the length of the mean.
        query_BF = vectors_NF[torch.from_numpy(newest_BL).to(vectors_NF.device)].sum(1)
        cosine_BN = F.normalize(query_BF, dim=1) @ vectors_NF.T
        return cosine_BN.masked_fill(bare_N, LEAST_COSINE)

    return score


def _centred(features_NF: Tensor, present_N: Tensor) -> Tensor:
    present_N1 = present_N[:, None]
    centred_NF = features_NF - features_NF[present_N].mean(0)
    return F.normalize(centred_NF.masked_fill(~present_N1, 0.0), dim=1)
