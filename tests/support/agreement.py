"""Asks a running server and the trained PyTorch model the same histories, and compares."""

import numpy as np
import numpy.typing as npt
import torch

from mmsr.engine.client import Recommendations, RecommenderClient
from mmsr.training.batches import pad_histories
from mmsr.training.model import catalogue_scores
from mmsr.training.run import TrainedRun

TOLERANCE = 1e-4  # of a score, relative to max(1, largest score)


def sample_histories(run: TrainedRun, most: int) -> list[npt.NDArray[np.int32]]:
    """Return the test histories of up to `most` users, spread over all of them."""
    split = run.split
    users = split.evaluated()
    chosen = users[np.linspace(0, len(users) - 1, min(most, len(users))).astype(int)]
    return [split.history(int(user), "test") for user in chosen]


@torch.no_grad()
def torch_scores(run: TrainedRun, histories: list[npt.NDArray[np.int32]]) -> torch.Tensor:
    """Return the training model's scores [B, N + 1] by its full forward pass."""
    rows = run.model.table(run.content)
    history_BL, length_B = pad_histories(histories, run.model.config.max_length)
    found = []
    for history, length in zip(
        torch.from_numpy(history_BL).split(50), torch.from_numpy(length_B).split(50), strict=True
    ):
        state_BLD = run.model(rows.inputs_nW, history)
        last_BD = state_BLD[torch.arange(len(length)), length - 1]
        found.append(catalogue_scores(last_BD, rows.outputs_nD))
    return torch.cat(found)


def overlaps(
    run: TrainedRun, target: str, histories: list[npt.NDArray[np.int32]], k: int
) -> list[float]:
    """Return overlap@k of the server with PyTorch for each history, seen items excluded.

    A returned item is right if its PyTorch score is at least the K-th PyTorch score less the
    tolerance. The order is checked as well: the scores fall, and each is PyTorch's.
    """
    ids: list[str] = run.dataset.item_table(["item_id"])["item_id"].to_pylist()
    row_of = {item_id: row for row, item_id in enumerate(ids, start=1)}
    scores_BN = torch_scores(run, histories)
    found = []
    with RecommenderClient(target) as client:
        for history, scores_N in zip(histories, scores_BN, strict=True):
            answer = client.recommend([ids[row - 1] for row in history], k, exclude_seen=True)
            found.append(_overlap(answer, history, scores_N, row_of, k))
    return found


def _overlap(
    answer: Recommendations,
    history: npt.NDArray[np.int32],
    scores_N: torch.Tensor,
    row_of: dict[str, int],
    k: int,
) -> float:
    allowed = scores_N.clone()
    allowed[0] = -torch.inf
    allowed[torch.from_numpy(history.astype(np.int64))] = -torch.inf
    eligible = int((allowed > -torch.inf).sum())
    wanted = min(k, eligible)
    tolerance = TOLERANCE * max(1.0, float(scores_N[1:].abs().max()))
    least = float(allowed.topk(wanted).values[-1]) - tolerance
    rows = {row_of[item_id] for item_id, _ in answer.items}
    assert answer.fallback is None
    assert answer.unknown_ids == 0
    assert len(rows) == len(answer.items) == wanted
    scores = [score for _, score in answer.items]
    assert scores == sorted(scores, reverse=True)
    for item_id, score in answer.items:
        assert abs(score - float(scores_N[row_of[item_id]])) <= tolerance
    return sum(float(allowed[row]) >= least for row in rows) / wanted
