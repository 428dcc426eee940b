"""Ranks of the held-out items: the model's and popularity's, history masked and not."""

# B users of one call, E evaluated users, N items, D width, L history length, K recommended items

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmsr.training.batches import pad_histories
from mmsr.training.items import ItemContent, ItemRows
from mmsr.training.metrics import Seen, masked_ranks, ranks, seen_pairs, summarise
from mmsr.training.model import SequentialRecommender, catalogue_scores
from mmsr.training.split import Part, Split
from mmsr.training.untrained import untrained_forgotten

Ranks = dict[str, npt.NDArray[np.int64]]  # "masked", "unmasked" -> [E]
Scorer = Callable[[list[npt.NDArray[np.int32]]], Tensor]  # histories -> scores [B, N + 1]

SCORES_BUDGET = 1 << 25  # scores at a time: 128 MiB in float32
USERS_PER_CALL = 512


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The scores of some users' whole catalogue beside what they should find."""

    place_B: npt.NDArray[np.int64]  # among the users that were asked for
    scores_BN: Tensor
    target_B: Tensor
    seen: Seen

    def ranks(self) -> dict[str, Tensor]:
        """Return the targets' ranks [B], history masked and not."""
        rank_B = ranks(self.scores_BN, self.target_B)
        masked_B = masked_ranks(rank_B, self.scores_BN, self.target_B, self.seen)
        return {"masked": masked_B, "unmasked": rank_B}

    def best_unseen(self, k: int) -> Tensor:
        """Return the rows [B, K] of the best unseen items; 0 where there are no more."""
        scores_BN = self.scores_BN.clone()
        scores_BN[self.seen.line_S, self.seen.row_S] = -torch.inf
        scores_BN[:, 0] = -torch.inf
        best = scores_BN.topk(min(k, scores_BN.shape[1] - 1), dim=1)
        return torch.where(best.values > -torch.inf, best.indices, 0)


def scored(
    split: Split, part: Part, score: Scorer, items: int, users: npt.NDArray[np.int64]
) -> Iterator[Scored]:
    """Score users in batches; those with histories of similar length go together."""
    begin_E, end_E = split.offsets[users], split.held_out(part).history_end_U[users]
    target_E = torch.from_numpy(split.held_out(part).target_U[users].astype(np.int64))
    order_E = np.argsort(end_E - begin_E, kind="stable")
    step = max(1, min(USERS_PER_CALL, SCORES_BUDGET // (items + 1)))
    for at in range(0, len(users), step):
        place_B = order_E[at : at + step]
        ends = zip(begin_E[place_B].tolist(), end_E[place_B].tolist(), strict=True)
        histories = [split.items_T[begin:end] for begin, end in ends]
        scores_BN = score(histories)
        yield Scored(
            place_B=place_B,
            scores_BN=scores_BN,
            target_B=target_E[place_B].to(scores_BN.device),
            seen=seen_pairs(histories, items).to(scores_BN.device),
        )


def rank_held_out(split: Split, part: Part, score: Scorer, items: int) -> Ranks:
    """Rank each evaluated user's held-out item among all items."""
    return rank_and_recommend(split, part, score, items, k=0)[0]


def rank_and_recommend(
    split: Split, part: Part, score: Scorer, items: int, k: int
) -> tuple[Ranks, npt.NDArray[np.int64]]:
    """Return the ranks and, from the same scores, the K best unseen rows [E, K] of every user."""
    users = split.evaluated(part)
    found = {mask: np.empty(len(users), dtype=np.int64) for mask in ("masked", "unmasked")}
    best_EK = np.zeros((len(users), min(k, items)), dtype=np.int64)
    for batch in scored(split, part, score, items, users):
        for mask, rank_B in batch.ranks().items():
            found[mask][batch.place_B] = rank_B.cpu().numpy()
        if k:
            best_EK[batch.place_B] = batch.best_unseen(k).cpu().numpy()
    return found, best_EK


def model_ranks(
    model: SequentialRecommender, content: ItemContent, split: Split, part: Part
) -> Ranks:
    """Rank with the model, in evaluation mode; its mode is put back afterwards."""
    was_training = model.training
    model.eval()
    rows = evaluation_rows(model, content, split)
    found = rank_held_out(split, part, model_scorer(model, rows), model.items)
    model.train(was_training)
    return found


@torch.no_grad()
def evaluation_rows(model: SequentialRecommender, content: ItemContent, split: Split) -> ItemRows:
    """Return the table rows of a model in evaluation mode; untrained ids are unknown ids."""
    with untrained_forgotten(model.item_encoder, split.train_counts(model.items)):
        return model.table(content)


def model_scorer(model: SequentialRecommender, rows: ItemRows) -> Scorer:
    """Return what scores histories with a model in evaluation mode."""
    device = rows.inputs_nW.device

    @torch.no_grad()
    def score(histories: list[npt.NDArray[np.int32]]) -> Tensor:
        history_BL, length_B = pad_histories(histories, model.config.max_length)
        state_BD = model.last(
            rows.inputs_nW,
            torch.from_numpy(history_BL).to(device),
            torch.from_numpy(length_B).to(device),
        )
        return catalogue_scores(state_BD, rows.outputs_nD)

    return score


def popularity_ranks(split: Split, part: Part, items: int) -> Ranks:
    """Rank by how often an item stands in the training part; the same order for everybody."""
    counts_N = split.train_counts(items)
    place_N = np.zeros(items + 1, dtype=np.int64)
    place_N[1 + np.argsort(-counts_N[1:], kind="stable")] = np.arange(1, items + 1)
    users = split.evaluated(part)
    seen = seen_pairs([split.history(user, part) for user in users.tolist()], items)
    line_S, row_S = seen.line_S.numpy(), seen.row_S.numpy()
    target_E = split.held_out(part).target_U[users]
    unmasked_E = place_N[target_E]
    before_S = place_N[row_S] < unmasked_E[line_S]
    masked_E = unmasked_E - np.bincount(line_S[before_S], minlength=len(users))
    masked_E[line_S[row_S == target_E[line_S]]] = items + 1
    return {"masked": masked_E, "unmasked": unmasked_E}


def flatten(prefix: str, found: Ranks) -> dict[str, float]:
    """Return metrics under keys like `test.masked.ndcg@10`."""
    return {
        f"{prefix}.{mask}.{name}": value
        for mask, rank_E in found.items()
        for name, value in summarise(rank_E).items()
    }
