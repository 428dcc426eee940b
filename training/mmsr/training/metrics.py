"""Ranking metrics over the whole catalogue, from the rank of the one relevant item.

With one relevant item at rank r (1 is best): Recall@k = [r <= k], NDCG@k = [r <= k] / log2(r + 1),
MRR@k = [r <= k] / r.
"""

# B users of one call, U users, N items, S pairs of a user and an item of its history

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

CUTOFFS = (5, 10, 20)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The items of some histories as pairs, each pair once."""

    line_S: Tensor  # int64, which of the B users
    row_S: Tensor  # int64, the item's row

    def to(self, device: torch.device) -> "Seen":
        """Return the pairs on `device`."""
        return Seen(line_S=self.line_S.to(device), row_S=self.row_S.to(device))


def seen_pairs(histories: list[npt.NDArray[np.int32]], items: int) -> Seen:
    """Return the pairs of histories whose rows are at most `items`."""
    line_T = np.repeat(np.arange(len(histories)), [len(h) for h in histories])
    # Sorted: `np.unique` hashes first, which takes twenty times as long.
    pair_T = np.sort(line_T * (items + 1) + np.concatenate(histories))
    first_T = np.diff(pair_T, prepend=-1) > 0
    line_S, row_S = np.divmod(pair_T[first_T], items + 1)
    return Seen(line_S=torch.from_numpy(line_S), row_S=torch.from_numpy(row_S))


def ranks(scores_BN: Tensor, target_B: Tensor) -> Tensor:
    """Return the rank [B] of each target among rows 1..N; row 0 (padding) never counts.

    Of equal scores the lower row ranks first, as in the served top-K. A target whose score is -inf
    or no number gets rank N + 1: a miss.
    """
    wanted_B1 = scores_BN.gather(1, target_B[:, None])
    better_B = _count(scores_BN > wanted_B1) - (scores_BN[:, 0] > wanted_B1[:, 0]).long()
    equal_BN = scores_BN == wanted_B1
    tied_B = torch.nonzero(_count(equal_BN) > 1)[:, 0]
    if len(tied_B):
        rows_N = torch.arange(scores_BN.shape[1], device=scores_BN.device)
        lower_BN = (rows_N > 0) & (rows_N < target_B[tied_B, None])
        better_B[tied_B] += (equal_BN[tied_B] & lower_BN).sum(1)
    return torch.where(wanted_B1[:, 0] > -torch.inf, better_B + 1, scores_BN.shape[1])


def _count(flags_BN: Tensor) -> Tensor:
    """Return how many flags of each line are set; bytes are summed four times faster than bools."""
    return flags_BN.view(torch.uint8).sum(1, dtype=torch.int32).long()


def masked_ranks(rank_B: Tensor, scores_BN: Tensor, target_B: Tensor, seen: Seen) -> Tensor:
    """Return `ranks` with the items of the histories left out, from the ranks with them.

    A target that stands in the history is a miss: rank N + 1.
    """
    target_S = target_B[seen.line_S]
    wanted_S = scores_BN[seen.line_S, target_S]
    score_S = scores_BN[seen.line_S, seen.row_S]
    before_S = (score_S > wanted_S) | ((score_S == wanted_S) & (seen.row_S < target_S))
    masked_B = rank_B.index_add(0, seen.line_S, -before_S.long())
    miss = scores_BN.shape[1]
    masked_B[seen.line_S[seen.row_S == target_S]] = miss
    return torch.where(rank_B == miss, miss, masked_B)


def per_user_ndcg(rank_U: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.float64]:
    """Return NDCG@k of every user [U]."""
    return np.where(rank_U <= k, 1.0 / np.log2(rank_U + 1.0), 0.0)


def chance(candidates_U: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return what `summarise` gives on average where every user's order is random.

    `candidates_U` [U] says how many items are ranked for each user.
    """
    rank_K = np.arange(1, max(CUTOFFS) + 1)
    # Each rank is as likely as any other, if there are so many candidates.
    share_K = ((rank_K <= candidates_U[:, None]) / candidates_U[:, None]).mean(0)
    metrics: dict[str, float] = {}
    for k in CUTOFFS:
        metrics[f"recall@{k}"] = float(share_K[:k].sum())
        metrics[f"ndcg@{k}"] = float((share_K / np.log2(rank_K + 1.0))[:k].sum())
        metrics[f"mrr@{k}"] = float((share_K / rank_K)[:k].sum())
    return metrics


def summarise(rank_U: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return recall@k, ndcg@k and mrr@k for every cutoff, as means over users."""
    metrics: dict[str, float] = {}
    for k in CUTOFFS:
        hit_U = rank_U <= k
        metrics[f"recall@{k}"] = float(hit_U.mean())
        metrics[f"ndcg@{k}"] = float(per_user_ndcg(rank_U, k).mean())
        metrics[f"mrr@{k}"] = float(np.where(hit_U, 1.0 / rank_U, 0.0).mean())
    return metrics
