"""What is lost when items lack a modality at test time that they had in training.

All values are NDCG@10, the user's history left out of the ranking.
"""

# N items, E evaluated users

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mmsr.training.checkpoint import RunError
from mmsr.training.evaluate import model_ranks
from mmsr.training.items import ItemContent
from mmsr.training.metrics import per_user_ndcg
from mmsr.training.run import TrainedRun
from mmsr.training.split import Part
from mmsr.training.statistics import Floats, paired_difference

SEED = 0
CUTOFF = 10
PARTS: tuple[Part, ...] = ("validation", "test")


@dataclass(frozen=True, kw_only=True)
class Lack:
    """A modality, and the share of the items having it that lose it."""

    modality: str
    share: float  # above 0, up to 1


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
    """Return `whole` and, per modality and share, `cases`, by validation and test.

    With `against`, a run of the same data and split that does without the modality, also its values
    and what is kept of the gain over it. Choose by validation; the test's intervals are paired ones
    of the users.
    """
    require_read(run, shares)
    if against is not None:
        require_comparable(run, against)
    lacks = [Lack(modality=m, share=share) for m, asked in shares.items() for share in asked]
    whole = {part: user_ndcg(run, part) for part in PARTS}
    without = None if against is None else {part: user_ndcg(against, part) for part in PARTS}
    cases = []
    for lack in lacks:
        values = {part: user_ndcg(run, part, lack) for part in PARTS}
        test_E = None if without is None else without["test"]
        cases.append(
            {"modality": lack.modality, "share": lack.share, **_means(values)}
            | compared(values["test"], whole["test"], test_E)
        )
    found: dict[str, Any] = {"whole": _means(whole), "cases": cases}
    return found if without is None else {**found, "against": _means(without)}


def user_ndcg(run: TrainedRun, part: Part, lack: Lack | None = None) -> Floats:
    """Return the NDCG@10 of every evaluated user [E], with all content or without some."""
    content = run.content
    if lack is not None:
        content = take_away(content, lack.modality, lack.share)
    return per_user_ndcg(model_ranks(run.model, content, run.split, part)["masked"], CUTOFF)


def compared(case_E: Floats, whole_E: Floats, without_E: Floats | None) -> dict[str, Any]:
    """Return `to_whole` and, beside a model without the modality, what is kept of the gain.

    `to_whole` and `past_half` are mean differences with their 95 % intervals: to the model that
    lacks nothing, and to the middle between that and the one without. Above 0, `past_half` says
    that more than half of the gain is kept.
    """
    found: dict[str, Any] = {"to_whole": paired_difference(case_E, whole_E)}
    if without_E is None:
        return found
    kept = gain_kept(float(case_E.mean()), float(whole_E.mean()), float(without_E.mean()))
    middle_E = (whole_E + without_E) / 2
    return {**found, "gain_kept": kept, "past_half": paired_difference(case_E, middle_E)}


def gain_kept(ndcg: float, whole: float, without: float) -> float | None:
    """Return the share of the gain `whole` - `without` that is left; None where there is none."""
    return (ndcg - without) / (whole - without) if whole > without else None


def _means(values: Mapping[Part, Floats]) -> dict[str, float]:
    return {part: float(value_E.mean()) for part, value_E in values.items()}


def require_read(run: TrainedRun, modalities: Iterable[str]) -> None:
    """Raise `RunError` for a modality that the run does not read."""
    unread = sorted(set(modalities) - set(run.content.present))
    if unread:
        raise RunError(
            f"{run.checkpoint.parents[1]} reads no {unread[0]!r}; "
            f"what it reads beside ids: {', '.join(run.content.present) or 'nothing'}"
        )


def require_comparable(run: TrainedRun, against: TrainedRun) -> None:
    """Raise `RunError` unless both were trained and are tested on the same."""
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
