"""Attention per source over a user's history, and the recommendations that follow from it.

Knows nothing of pictures.
"""

# B batch (1 here), L history items that are read, H heads, M sources, N items

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmsr.bundle.errors import MmsrError
from mmsr.training.attention import Block
from mmsr.training.explain.sources import sources_of
from mmsr.training.explain.users import find_user
from mmsr.training.model import SequentialRecommender, catalogue_scores
from mmsr.training.run import TrainedRun


class ExplainError(MmsrError):
    """What was asked to be shown is not there."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Which part of the model is looked at, and how many recommendations."""

    block: int | None = None  # from 1; None: the last, which decides
    head: int | None = None  # from 1; None: the mean over the heads
    k: int = 10


@dataclass(frozen=True, kw_only=True)
class ShownItem:
    """An item as a person knows it."""

    item_id: str
    title: str  # the id where there is none
    image: str | None  # path below the data's image root


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One user, one block: who looks at what, and what comes out."""

    user: str
    interactions: int  # of the user; the newest L of them are read
    block: int
    blocks: int
    head: int | None
    heads: int
    history: tuple[ShownItem, ...]  # L, oldest first
    sources: tuple[str, ...]  # M, the id path first
    alone_MLL: npt.NDArray[np.float32]  # each row (a position) sums to 1 over what it may see
    fused_LL: npt.NDArray[np.float32]
    seen_excluded: bool
    recommended: tuple[tuple[ShownItem, float], ...]  # with scores, best first


@torch.no_grad()
def explain_user(trained: TrainedRun, user: str, view: View) -> Explanation:
    """Return what the run's best checkpoint makes of all that the user has bought.

    Raises `UnknownUserError`, and `ExplainError` for a block, head or k that is not there.
    """
    model = trained.model
    block, head = _checked(model, view)
    index = find_user(trained.dataset, user)
    begin, end = (int(x) for x in trained.dataset.offsets[index : index + 2])
    bought = np.asarray(trained.dataset.items_T[begin:end]).astype(np.int64)
    read = bought[-model.config.max_length :]
    device = next(model.parameters()).device
    table = model.table(trained.content)
    inputs_NW, outputs_ND = table.inputs_nW, table.outputs_nD
    history_BL = torch.from_numpy(read)[None].to(device)
    alone_MLL, fused_LL = _attention(model, inputs_NW, history_BL, block, head)
    seen_excluded = trained.info.recipe.serving.exclude_seen
    length_B = torch.tensor([len(read)], device=device)
    scores_N = catalogue_scores(model.last(inputs_NW, history_BL, length_B), outputs_ND)[0]
    best, score = _top(scores_N, bought if seen_excluded else bought[:0], view.k)
    items = _items(trained, [*read.tolist(), *best])
    return Explanation(
        user=user,
        interactions=len(bought),
        block=block,
        blocks=len(model.blocks),
        head=head,
        heads=model.config.heads,
        history=tuple(items[: len(read)]),
        sources=sources_of(model),
        alone_MLL=alone_MLL,
        fused_LL=fused_LL,
        seen_excluded=seen_excluded,
        recommended=tuple(zip(items[len(read) :], score, strict=True)),
    )


def _checked(model: SequentialRecommender, view: View) -> tuple[int, int | None]:
    """Return block and head, both from 1."""
    if model.config.architecture != "mmsr":
        raise ExplainError(
            f"a run with [model] architecture = {model.config.architecture!r} is a baseline; only "
            "runs of architecture 'mmsr' show what each source looks at"
        )
    block = len(model.blocks) if view.block is None else view.block
    if not 1 <= block <= len(model.blocks):
        raise ExplainError(f"block {block}; this run has blocks 1 to {len(model.blocks)}")
    if view.head is not None and not 1 <= view.head <= model.config.heads:
        raise ExplainError(f"head {view.head}; this run has heads 1 to {model.config.heads}")
    if view.k < 1:
        raise ExplainError(f"k = {view.k}; expected at least 1")
    return block, view.head


def _attention(
    model: SequentialRecommender,
    inputs_NW: Tensor,
    history_BL: Tensor,
    block: int,
    head: int | None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the attention of every source alone [M, L, L] and the fused one [L, L]."""
    state_BLD, sides = model.embed(inputs_NW, history_BL)
    for earlier in model.blocks[: block - 1]:
        state_BLD = earlier(state_BLD, sides)
    shown = model.blocks[block - 1]
    assert isinstance(shown, Block)
    alone_BMHLL, fused_BHLL = shown.weights(state_BLD, sides)
    if head is None:
        alone_MLL, fused_LL = alone_BMHLL[0].mean(1), fused_BHLL[0].mean(0)
    else:
        alone_MLL, fused_LL = alone_BMHLL[0, :, head - 1], fused_BHLL[0, head - 1]
    return alone_MLL.float().cpu().numpy(), fused_LL.float().cpu().numpy()


def _top(
    scores_N: Tensor, excluded: npt.NDArray[np.int64], k: int
) -> tuple[list[int], list[float]]:
    """Return the best rows and their scores; of equal scores the lower row first, as served."""
    scores_N = scores_N.float().cpu()
    scores_N[0] = -torch.inf  # padding
    scores_N[torch.from_numpy(excluded)] = -torch.inf
    order = scores_N.sort(descending=True, stable=True).indices[:k]
    best = [int(row) for row in order if scores_N[row] > -torch.inf]
    return best, [float(scores_N[row]) for row in best]


def _items(trained: TrainedRun, rows: list[int]) -> list[ShownItem]:
    table = trained.dataset.item_table(["item_id", "title", "image"])
    found: list[dict[str, Any]] = table.take([row - 1 for row in rows]).to_pylist()
    return [
        ShownItem(
            item_id=item["item_id"],
            title=" ".join((item["title"] or "").split()) or item["item_id"],
            image=item["image"],
        )
        for item in found
    ]
