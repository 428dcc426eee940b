"""Ranking metrics over the whole catalogue, from the rank of the one relevant item.

With one relevant item at rank r (1 is best): Recall@k = [r <= k], NDCG@k = [r <= k] / log2(r + 1),
MRR@k = [r <= k] / r.
"""

# B users of one call, U users, N items

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

CUTOFFS = (5, 10, 20)


def ranks(scores_BN: Tensor, target_B: Tensor, excluded_BN: Tensor | None = None) -> Tensor:
    """Return the rank [B] of each target among rows 1..N; row 0 (padding) never counts.

    Of equal scores the lower row ranks first, as in the served top-K. An excluded target (it stands
    in the history that is masked) gets rank N + 1: a miss; so does a score that is no number.
    """
    if excluded_BN is not None:
        scores_BN = scores_BN.masked_fill(excluded_BN, -torch.inf)
    scores_BN = scores_BN[:, 1:]
    at_B1 = target_B[:, None] - 1
    wanted_B1 = scores_BN.gather(1, at_B1)
    rows_N = torch.arange(scores_BN.shape[1], device=scores_BN.device)
    before_BN = (scores_BN > wanted_B1) | ((scores_BN == wanted_B1) & (rows_N < at_B1))
    rank_B = before_BN.sum(1) + 1
    ranked_B = wanted_B1[:, 0] > -torch.inf  # false for NaN too
    return torch.where(ranked_B, rank_B, scores_BN.shape[1] + 1)


def per_user_ndcg(rank_U: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.float64]:
    """Return NDCG@k of every user [U]."""
    return np.where(rank_U <= k, 1.0 / np.log2(rank_U + 1.0), 0.0)


def summarise(rank_U: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return recall@k, ndcg@k and mrr@k for every cutoff, as means over users."""
    metrics: dict[str, float] = {}
    for k in CUTOFFS:
        hit_U = rank_U <= k
        metrics[f"recall@{k}"] = float(hit_U.mean())
        metrics[f"ndcg@{k}"] = float(per_user_ndcg(rank_U, k).mean())
        metrics[f"mrr@{k}"] = float(np.where(hit_U, 1.0 / rank_U, 0.0).mean())
    return metrics
