"""User and item vectors of a rival -> ranks and metrics, by MMSR's own code."""

# E evaluated users, B of them at a time, N items, D width

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.rivals.environments import RivalError
from mmsr.bundle.files import write_json
from mmsr.training.dataset import Dataset
from mmsr.training.metrics import masked_ranks, ranks, seen_pairs, summarise
from mmsr.training.split import Split, leave_one_out

USERS_PER_CALL = 512
Ints = npt.NDArray[np.int64]


def evaluate_states(dataset: Dataset, folder: Path) -> dict[str, Any]:
    """Rank the test items of the users in `folder`/states.npz; write ranks.npz, metrics.json.

    An item that the rival has no vector for gets no score: it is never recommended, and a miss
    where it was asked for.
    """
    path = folder / "states.npz"
    if not path.is_file():
        raise RivalError(f"{path} not found; it is written after the first epoch of a training")
    with np.load(path) as data:
        users, epoch = data["users"], int(data["epoch"])
        state_ED, items_ND = torch.from_numpy(data["states"]), torch.from_numpy(data["items"])
        unknown_N = torch.from_numpy(~data["known"])
    found = rank_states(leave_one_out(dataset), users, state_ED, items_ND, unknown_N)
    np.savez(folder / "ranks.npz", users=users, masked=found["masked"], unmasked=found["unmasked"])
    metrics = {
        "epoch": epoch,
        "users": len(users),
        "items_without_vector": int(unknown_N[1:].sum()),
        **{mask: summarise(rank_E) for mask, rank_E in found.items()},
    }
    write_json(folder / "metrics.json", metrics)
    return metrics


def rank_states(
    split: Split,
    users: Ints,
    state_ED: torch.Tensor,
    items_ND: torch.Tensor,
    unknown_N: torch.Tensor,
) -> dict[str, Ints]:
    """Return the ranks [E] of the users' test items, history masked and not."""
    parts: dict[str, list[Ints]] = {"masked": [], "unmasked": []}
    for begin in range(0, len(users), USERS_PER_CALL):
        some = users[begin : begin + USERS_PER_CALL]
        scores_BN = state_ED[begin : begin + USERS_PER_CALL] @ items_ND.T
        scores_BN[:, unknown_N] = -torch.inf
        target_B = torch.from_numpy(split.test.target_U[some].astype(np.int64))
        seen = seen_pairs([split.history(u, "test") for u in some.tolist()], len(items_ND) - 1)
        rank_B = ranks(scores_BN, target_B)
        parts["unmasked"].append(rank_B.numpy())
        parts["masked"].append(masked_ranks(rank_B, scores_BN, target_B, seen).numpy())
    return {mask: np.concatenate(found) for mask, found in parts.items()}
