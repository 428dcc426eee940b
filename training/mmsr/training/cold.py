"""Cold items: what stands in no training part and no history is asked for in the test.

They are ranked twice: among all items, where the model must also know when not to prefer what it
has been trained on, and among the cold items alone.
"""

# E users whose target is cold, N items, C cold items

from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mmsr.training.baselines.content_knn import NoFeaturesError, content_knn_scorer
from mmsr.training.checkpoint import RunError
from mmsr.training.evaluate import Ranks, Scorer, evaluation_rows, model_scorer, scored
from mmsr.training.metrics import chance, per_user_ndcg, ranks, summarise
from mmsr.training.run import TrainedRun
from mmsr.training.split import Split
from mmsr.training.statistics import Floats, paired_difference

AMONG_COLD = "cold"
CUTOFF = 10  # of the intervals' NDCG
ColdMetrics = dict[str, dict[str, dict[str, float]]]  # who ranks -> among which -> metric


def cold_users(split: Split) -> npt.NDArray[np.int64]:
    """Return the users [E] of the test whose target is a cold item."""
    return np.flatnonzero(np.isin(split.test.target_U, split.cold_rows))


def cold_ranks(split: Split, score: Scorer, items: int) -> Ranks:
    """Rank cold targets among all items ("masked", "unmasked") and among the cold ones ("cold").

    A cold item stands in no history: among the cold ones there is nothing to mask.
    """
    users = cold_users(split)
    found = {among: np.empty(len(users), np.int64) for among in ("masked", "unmasked", AMONG_COLD)}
    columns_C = torch.from_numpy(np.concatenate([[0], split.cold_rows]))
    for batch in scored(split, "test", score, items, users):
        device = batch.scores_BN.device
        at_B = torch.searchsorted(columns_C.to(device), batch.target_B)
        among_cold_B = ranks(batch.scores_BN[:, columns_C.to(device)], at_B)
        for among, rank_B in {**batch.ranks(), AMONG_COLD: among_cold_B}.items():
            found[among][batch.place_B] = rank_B.cpu().numpy()
    return found


def evaluate_cold(run: TrainedRun) -> dict[str, Any]:
    """Return `users` and `items`, and of model, content-kNN, popularity and chance the `metrics`.

    `model_above` holds the model's mean difference in NDCG@10 to content-kNN and to popularity with
    its 95 % interval, among all items ("masked") and among the cold ones ("cold"), users in pairs.
    Without text or image features there is no content-kNN. To popularity all cold items are equal:
    they are ranked by their rows, behind everything that was bought.
    """
    _require_cold(run)
    found = {name: cold_ranks(run.split, s, run.info.items) for name, s in _scorers(run).items()}
    metrics: ColdMetrics = {
        name: {among: summarise(rank_E) for among, rank_E in ranks_of.items()}
        for name, ranks_of in found.items()
    }
    return {
        "users": len(cold_users(run.split)),
        "items": len(run.split.cold_rows),
        "metrics": {**metrics, "chance": _by_chance(run.split, run.info.items)},
        "model_above": {
            name: _above(found["model"], ranks_of)
            for name, ranks_of in found.items()
            if name != "model"
        },
    }


def _require_cold(run: TrainedRun) -> None:
    if len(run.split.cold_rows) == 0:
        raise RunError(
            f"{run.checkpoint.parents[1]} was trained with every item, none is cold; set [split] "
            "cold_share (0.1, for example) in its recipe and train anew"
        )
    if len(cold_users(run.split)) == 0:
        raise RunError(
            f"{run.checkpoint.parents[1]}: nobody who asks for a cold item has a history of others;"
            " take more data or another [split] cold_share or cold_seed"
        )


def _scorers(run: TrainedRun) -> dict[str, Scorer]:
    rows = evaluation_rows(run.model, run.content, run.split)
    scorers = {"model": model_scorer(run.model, rows)}
    with suppress(NoFeaturesError):
        scorers["content-kNN"] = content_knn_scorer(run.content)
    counts_N = torch.from_numpy(run.split.train_counts(run.info.items)).float()
    scorers["popularity"] = lambda histories: counts_N.expand(len(histories), -1)
    return scorers


def _above(model: Ranks, other: Ranks) -> dict[str, dict[str, float]]:
    def ndcg(found: Ranks, among: str) -> Floats:
        return per_user_ndcg(found[among], CUTOFF)

    return {
        among: paired_difference(ndcg(model, among), ndcg(other, among))
        for among in ("masked", AMONG_COLD)
    }


def _by_chance(split: Split, items: int) -> dict[str, dict[str, float]]:
    """Return what a random order of the eligible items gives on average."""
    users = cold_users(split).tolist()
    seen_E = np.array([len(np.unique(split.history(user, "test"))) for user in users])
    return {
        "masked": chance(items - seen_E),
        "unmasked": chance(np.array([items])),
        AMONG_COLD: chance(np.array([len(split.cold_rows)])),
    }
