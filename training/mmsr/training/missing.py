"""What is lost when items lack a modality at test time that they had in training."""

# N items

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mmsr.training.checkpoint import RunError
from mmsr.training.evaluate import model_ranks
from mmsr.training.items import ItemContent
from mmsr.training.metrics import per_user_ndcg
from mmsr.training.run import TrainedRun

SEED = 0
CUTOFF = 10


def take_away(content: ItemContent, modality: str, share: float) -> ItemContent:
    """Return the content with the modality missing from a share of the items that have it.

    The items are drawn by a fixed seed; those of a smaller share are among those of a larger.
    """
    present_N = content.present[modality]
    having = np.flatnonzero(present_N.cpu().numpy())
    gone = np.random.default_rng(SEED).permutation(having)[: round(share * len(having))]
    left_N = present_N.clone()
    left_N[torch.from_numpy(gone).to(left_N.device)] = False
    return replace(content, present={**content.present, modality: left_N})


def evaluate_missing(
    run: TrainedRun, shares: Mapping[str, list[float]], against: TrainedRun | None = None
) -> dict[str, Any]:
    """Return the test's NDCG@10 (history masked), whole and per modality and share missing.

    With an ids-only run of the same data and split, also what is kept of the gain over it; None
    where there is none.
    """
    _require_read(run, shares)
    if against is not None:
        _require_comparable(run, against)
    whole = _ndcg(run, run.content)
    ndcg = {
        modality: {
            f"{share:g}": _ndcg(run, take_away(run.content, modality, share)) for share in asked
        }
        for modality, asked in shares.items()
    }
    found = {"whole": whole, f"ndcg@{CUTOFF}": ndcg}
    if against is None:
        return found
    without = _ndcg(against, against.content)
    kept = {
        modality: {share: gain_kept(value, whole, without) for share, value in by_share.items()}
        for modality, by_share in ndcg.items()
    }
    return {**found, "against": without, "gain_kept": kept}


def gain_kept(ndcg: float, whole: float, without: float) -> float | None:
    """Return the share of the gain `whole` - `without` that is left; None where there is none."""
    return (ndcg - without) / (whole - without) if whole > without else None


def _ndcg(run: TrainedRun, content: ItemContent) -> float:
    found = model_ranks(run.model, content, run.split, "test")
    return float(per_user_ndcg(found["masked"], CUTOFF).mean())


def _require_read(run: TrainedRun, modalities: Iterable[str]) -> None:
    unread = sorted(set(modalities) - set(run.content.present))
    if unread:
        raise RunError(
            f"{run.checkpoint.parents[1]} reads no {unread[0]!r}; "
            f"what it reads beside ids: {', '.join(run.content.present) or 'nothing'}"
        )


def _require_comparable(run: TrainedRun, against: TrainedRun) -> None:
    one, other = run.info, against.info
    if one.data_hash != other.data_hash or one.recipe.split != other.recipe.split:
        raise RunError(
            f"{against.checkpoint.parents[1]} was trained on other data or another [split] than "
            f"{run.checkpoint.parents[1]}; the gain is that over a run of the same data and split"
        )
    if other.selected_by is not None:
        raise RunError(
            f"{against.checkpoint.parents[1]} was trained on all interactions, the test's too; "
            f"name the run that it was selected by: {other.selected_by.run}"
        )
