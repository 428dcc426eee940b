"""Whether a server answers as the model does, before anything of it is timed.

Pure, but for `expected`: ONNX Runtime's own answer, which the bundle's gate has compared with
PyTorch's.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.rivals.shared_model import Order, Query, Ranking, open_shared
from benchmarks.rivals.venvs import RivalError
from mmsr.bundle.catalogue import load_catalogue

BEYOND = 30  # ranks below K whose items may change places with it when scores tie
ATOL = 1e-4  # batches of other sizes are summed in another order: measured up to 2e-6


def random_histories(bundle: Path, count: int, most: int, seed: int = 0) -> list[list[str]]:
    """Return histories of 1 to `most` items, each length and item as likely as any other."""
    random = np.random.default_rng(seed)
    ids = load_catalogue(bundle).item_ids
    lengths = random.integers(1, most + 1, count).tolist()
    return [[ids[place] for place in random.integers(0, len(ids), n).tolist()] for n in lengths]


def expected(bundle: Path, histories: Sequence[list[str]], k: int) -> list[Ranking]:
    """Return the K + BEYOND best items of each history."""
    model = open_shared(Order(bundle=str(bundle), port=0))
    return model.recommend([Query(history, k + BEYOND) for history in histories])


def differs(wanted: Ranking, item_ids: Sequence[str], scores: Sequence[float]) -> str | None:
    """Say how an answer differs from the model's, None if it does not.

    Rank by rank the score must be the model's, and every item's score its own: equal scores may
    stand in any order.
    """
    if len(item_ids) != len(wanted.item_ids) - BEYOND or len(scores) != len(item_ids):
        return f"{len(item_ids)} items and {len(scores)} scores"
    if len(set(item_ids)) != len(item_ids):
        return "an item stands twice"
    own = dict(zip(wanted.item_ids, wanted.scores, strict=True))
    for rank, (item_id, score) in enumerate(zip(item_ids, scores, strict=True)):
        if abs(score - wanted.scores[rank]) > ATOL:
            return f"rank {rank + 1} has the score {score}, expected {wanted.scores[rank]}"
        if item_id not in own or abs(own[item_id] - score) > ATOL:
            return f"rank {rank + 1} is {item_id} with {score}, which is not its score"
    return None


def require_equal(name: str, wanted: Ranking, item_ids: list[str], scores: list[float]) -> None:
    """Raise `RivalError` if an answer differs."""
    difference = differs(wanted, item_ids, scores)
    if difference is not None:
        raise RivalError(f"{name} does not answer as the model does: {difference}")
