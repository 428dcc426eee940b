"""NDCG@10 of held-out interactions, user by user: by PyTorch and by any bundle's runner.

What the gate for parity and the gate for quality compare. Knows nothing of what is allowed.
"""

# E evaluated users, N items, B users of one call, K results

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mmsr.engine.model import RowRequest, SequenceModel
from mmsr.training.evaluate import Scorer, model_scorer, popularity_ranks, scored
from mmsr.training.items import ItemRows
from mmsr.training.metrics import per_user_ndcg
from mmsr.training.model import SequentialRecommender
from mmsr.training.split import Split
from mmsr.training.statistics import Floats, paired_interval

MOST_USERS = 20_000
USER_SEED = 0
CUTOFF = 10
BATCH = 16  # users a call

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Some users' histories (rows, oldest first) and what came next."""

    users_E: Places
    histories: list[npt.NDArray[np.int32]]
    target_E: Places
    exclude_seen: bool  # whether what a user has bought is left out of the ranking, as served

    def __len__(self) -> int:
        return len(self.users_E)

    def some(self, which_e: Places) -> "Interactions":
        """Return some of them, by place."""
        return Interactions(
            users_E=self.users_E[which_e],
            histories=[self.histories[place] for place in which_e.tolist()],
            target_E=self.target_E[which_e],
            exclude_seen=self.exclude_seen,
        )

    @property
    def mask(self) -> str:
        """Which of `mmsr.training.evaluate`'s ranks these are."""
        return "masked" if self.exclude_seen else "unmasked"


def held_out(split: Split, exclude_seen: bool, most: int = MOST_USERS) -> Interactions:
    """Return the test's interactions: all users' or, of more than `most`, a fixed sample."""
    users = split.evaluated("test")
    if len(users) > most:
        chosen = np.random.default_rng(USER_SEED).choice(len(users), most, replace=False)
        users = users[np.sort(chosen)]
    return Interactions(
        users_E=users,
        histories=[split.history(user, "test") for user in users.tolist()],
        target_E=split.test.target_U[users].astype(np.int64),
        exclude_seen=exclude_seen,
    )


def torch_gains(
    model: SequentialRecommender, rows: ItemRows, split: Split, asked: Interactions
) -> Floats:
    """Return NDCG@10 of each user [E] by PyTorch; `split` is what `asked` was taken from."""
    rank_E = np.empty(len(asked), dtype=np.int64)
    scorer = _in_parts(model_scorer(model, rows))
    for batch in scored(split, "test", scorer, model.items, asked.users_E):
        rank_E[batch.place_B] = batch.ranks()[asked.mask].cpu().numpy()
    return per_user_ndcg(rank_E, CUTOFF)


def _in_parts(scorer: Scorer) -> Scorer:
    """Score `BATCH` histories at a time: twice as fast as 512, whose states no cache can hold."""

    def score(histories: list[npt.NDArray[np.int32]]) -> torch.Tensor:
        begins = range(0, len(histories), BATCH)
        return torch.cat([scorer(histories[begin : begin + BATCH]) for begin in begins])

    return score


def popularity_gains(split: Split, items: int, asked: Interactions) -> Floats:
    """Return NDCG@10 of each user [E] where everybody gets what was bought most in training."""
    rank_U = popularity_ranks(split, "test", items)[asked.mask]
    place_E = np.searchsorted(split.evaluated("test"), asked.users_E)
    return per_user_ndcg(rank_U[place_E], CUTOFF)


def bundle_gains(model: SequenceModel, asked: Interactions) -> Floats:
    """Return NDCG@10 of each user [E] by the engine; rows are those of the model's own tables.

    Rows of 0 are items that the bundle does not have: in a history they are passed over, as a
    target they are missed. A user of whose history nothing is left gets the most popular items.
    """
    gain_E = np.zeros(len(asked))
    order_E = np.argsort([len(history) for history in asked.histories], kind="stable")
    k = min(CUTOFF, model.bundle.manifest.tables.items)
    popular = (1 + np.argsort(-model.bundle.catalogue.popularity, kind="stable")[:k]).tolist()
    for begin in range(0, len(asked), BATCH):
        places = order_E[begin : begin + BATCH].tolist()
        histories = [asked.histories[p][asked.histories[p] > 0].tolist() for p in places]
        answers = _answers(model, histories, k, asked.exclude_seen)
        for place, answer in zip(places, answers, strict=True):
            gain_E[place] = _gain(answer or popular, int(asked.target_E[place]))
    return gain_E


def _answers(
    model: SequenceModel, histories: Sequence[list[int]], k: int, exclude_seen: bool
) -> list[list[int]]:
    """Return the best rows of each history; none where it is empty."""
    requests = [
        RowRequest(
            history[-model.max_length :], list(dict.fromkeys(history)) if exclude_seen else [], k
        )
        for history in histories
        if history
    ]
    answers = iter(model.recommend(requests) if requests else [])
    return [next(answers).rows if history else [] for history in histories]


def _gain(rows: list[int], target: int) -> float:
    return 1.0 / float(np.log2(rows.index(target) + 2.0)) if target in rows else 0.0


@dataclass(frozen=True, kw_only=True)
class Gains:
    """NDCG@10 of each user that was asked for."""

    asked: Interactions
    ndcg_E: Floats


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """NDCG@10 of one system against another on the same users."""

    users: int
    ndcg: float
    reference: float
    low: float  # 95 % interval of the mean difference, users resampled in pairs
    high: float

    @property
    def loss(self) -> float:
        """Return by which share it is lower; negative where it is higher."""
        return (self.reference - self.ndcg) / self.reference if self.reference > 0 else 0.0

    def is_lower(self, by: float) -> bool:
        """Return whether it is lower by more than the share `by`, and not by chance."""
        return self.loss > by and self.high < 0


def compare(found_E: Floats, reference_E: Floats) -> Comparison:
    """Compare the gains of the same users."""
    low, high = paired_interval(found_E, reference_E)
    return Comparison(
        users=len(found_E),
        ndcg=float(found_E.mean()),
        reference=float(reference_E.mean()),
        low=low,
        high=high,
    )
