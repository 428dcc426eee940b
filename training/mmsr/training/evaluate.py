"""Ranks of the held-out items: the model's and popularity's, history masked and not."""

# B users of one call, U evaluated users, N items, D width, L history length

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmsr.training.batches import pad_histories
from mmsr.training.items import ItemContent
from mmsr.training.metrics import ranks, summarise
from mmsr.training.model import SequentialRecommender, catalogue_scores
from mmsr.training.split import LeaveOneOut, Part

Ranks = dict[str, npt.NDArray[np.int64]]  # "masked", "unmasked" -> [U]
Scorer = Callable[[list[npt.NDArray[np.int32]]], Tensor]  # histories -> scores [B, N + 1]

SCORES_BUDGET = 1 << 25  # scores at a time: 128 MiB in float32


def rank_held_out(split: LeaveOneOut, part: Part, score: Scorer, items: int) -> Ranks:
    """Rank each evaluated user's held-out item among all items."""
    users = split.evaluated()
    step = max(1, min(512, SCORES_BUDGET // (items + 1)))
    found: dict[str, list[npt.NDArray[np.int64]]] = {"masked": [], "unmasked": []}
    for begin in range(0, len(users), step):
        chosen = users[begin : begin + step]
        histories = [split.history(int(u), part) for u in chosen]
        scores_BN = score(histories)
        target_B = torch.tensor([split.target(int(u), part) for u in chosen]).to(scores_BN.device)
        seen_BN = _seen(histories, items).to(scores_BN.device)
        found["masked"].append(ranks(scores_BN, target_B, seen_BN).cpu().numpy())
        found["unmasked"].append(ranks(scores_BN, target_B).cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _seen(histories: list[npt.NDArray[np.int32]], items: int) -> Tensor:
    seen_BN = torch.zeros(len(histories), items + 1, dtype=torch.bool)
    for row, history in zip(seen_BN, histories, strict=True):
        row[torch.from_numpy(np.asarray(history, dtype=np.int64))] = True
    return seen_BN


@torch.no_grad()
def model_ranks(
    model: SequentialRecommender, content: ItemContent, split: LeaveOneOut, part: Part
) -> Ranks:
    """Rank with the model, in evaluation mode; its mode is put back afterwards."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    rows = model.table(content)

    def score(histories: list[npt.NDArray[np.int32]]) -> Tensor:
        history_BL, length_B = pad_histories(histories, model.config.max_length)
        state_BD = model.last(
            rows.inputs_nW,
            torch.from_numpy(history_BL).to(device),
            torch.from_numpy(length_B).to(device),
        )
        return catalogue_scores(state_BD, rows.outputs_nD)

    found = rank_held_out(split, part, score, model.items)
    model.train(was_training)
    return found


def popularity_ranks(split: LeaveOneOut, part: Part, items: int) -> Ranks:
    """Rank by how often an item stands in the training part."""
    counts_N = torch.from_numpy(split.train_counts(items)).float()

    def score(histories: list[npt.NDArray[np.int32]]) -> Tensor:
        return counts_N.expand(len(histories), -1)

    return rank_held_out(split, part, score, items)


def flatten(prefix: str, found: Ranks) -> dict[str, float]:
    """Return metrics under keys like `test.masked.ndcg@10`."""
    return {
        f"{prefix}.{mask}.{name}": value
        for mask, rank_U in found.items()
        for name, value in summarise(rank_U).items()
    }
