"""What one training step reads, decided on the host. Knows nothing of models.

Positions, next items, candidates and negatives follow from the batch alone, so nothing on a GPU
has to be waited for. Every process of a training plans the whole step and takes its part: it
knows the counts and the candidates of all without a message.
"""

# B histories of this process, L history length, T positions with a target in the whole step,
# M of them in this process, K of those that one loss looks at, C candidates, R rows, n negatives

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmsr.training.batches import Batch
from mmsr.training.config import LossConfig
from mmsr.training.distributed import Ranks
from mmsr.training.negatives import Negatives, NegativeSampler

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Aim:
    """The positions that the loss of one modality looks at."""

    place_K: Tensor  # among the M positions
    right_K: Tensor  # which candidate comes next
    candidate_C: Tensor  # rows, the distinct next items of the positions of all processes
    count: float  # positions of all processes, over their number


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The rows that a step with sampled softmax reads, and where they are read."""

    row_R: Tensor  # distinct, padding first
    history_BL: Tensor  # places in row_R
    wanted_M: Tensor  # places in row_R
    negative_n: Tensor  # places in row_R
    negatives: Negatives


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One step of one process."""

    history_BL: Tensor  # rows
    place_M: Tensor  # of the positions with a target, among all B * L
    target_M: Tensor  # rows
    count: float  # positions with a target in all processes, over their number
    aims: dict[str, Aim]
    sample: Sample | None = None

    def to(self, device: torch.device) -> "Plan":
        """Return the plan on `device`; the copy to a GPU goes on while the host does."""
        moved: Plan = _moved(self, device)
        return moved


@dataclass(frozen=True, kw_only=True)
class Padding:
    """Sizes that batches are filled up to, so that a compiled model meets few of them."""

    histories: int
    lengths: tuple[int, ...]  # ascending; the last is the longest there is


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Makes the plans of one process."""

    config: LossConfig
    ranks: Ranks
    present: dict[str, npt.NDArray[np.bool_]]  # [N + 1] for each modality that has a loss
    sampler: NegativeSampler | None = None  # on the CPU; None: softmax over the whole catalogue
    padding: Padding | None = None

    def plan(self, batch: Batch, random: np.random.Generator) -> Plan:
        """Plan this process's part of a step: every `ranks.count`-th history of `batch`."""
        ranks, batch = self.ranks, self._filled(batch)
        row_T, column_T = np.nonzero(batch.target_BL)
        target_T = batch.target_BL[row_T, column_T]
        mine_T = row_T % ranks.count == ranks.rank
        history_BL = batch.history_BL[ranks.rank :: ranks.count]
        place_M = (row_T // ranks.count * history_BL.shape[1] + column_T)[mine_T]
        return Plan(
            history_BL=_tensor(history_BL),
            place_M=_tensor(place_M),
            target_M=_tensor(target_T[mine_T]),
            count=len(target_T) / ranks.count,
            aims={m: self._aim(m, target_T, mine_T, random) for m in self.present},
            sample=self._sample(history_BL, target_T[mine_T]),
        )

    def _aim(
        self,
        modality: str,
        target_T: Ints,
        mine_T: npt.NDArray[np.bool_],
        random: np.random.Generator,
    ) -> Aim:
        """Choose the positions of all processes and keep this one's."""
        chosen = np.flatnonzero(self.present[modality][target_T])
        limit = self.config.sampled_positions
        if modality != "category" and len(chosen) > limit:
            chosen = random.permutation(chosen)[:limit]
        candidate_C, right = np.unique(target_T[chosen], return_inverse=True)
        place_T = np.cumsum(mine_T) - 1
        mine = mine_T[chosen]
        return Aim(
            place_K=_tensor(place_T[chosen][mine]),
            right_K=_tensor(right[mine]),
            candidate_C=_tensor(candidate_C),
            count=len(chosen) / self.ranks.count,
        )

    def _filled(self, batch: Batch) -> Batch:
        """Add histories without items, at least until every process has one, and empty places."""
        histories, length = batch.history_BL.shape
        more_histories, more_length = -histories % self.ranks.count, 0
        if self.padding is not None:
            more_histories = self.padding.histories * self.ranks.count - histories
            more_length = next(n for n in self.padding.lengths if n >= length) - length
        if not more_histories and not more_length:
            return batch
        width = ((0, more_histories), (0, more_length))
        return Batch(
            history_BL=np.pad(batch.history_BL, width), target_BL=np.pad(batch.target_BL, width)
        )

    def _sample(self, history_BL: Ints, target_M: Ints) -> Sample | None:
        if self.sampler is None:
            return None
        negatives = self.sampler(self.config.negatives)
        parts = (history_BL.ravel(), target_M, negatives.rows_n.numpy())
        padding = np.zeros(1, dtype=np.int64)
        row_R, at = np.unique(np.concatenate([padding, *parts]), return_inverse=True)
        history, wanted_M, negative_n = np.split(at[1:], np.cumsum([len(p) for p in parts[:-1]]))
        return Sample(
            row_R=_tensor(row_R),
            history_BL=_tensor(history.reshape(history_BL.shape)),
            wanted_M=_tensor(wanted_M),
            negative_n=_tensor(negative_n),
            negatives=negatives,
        )


def _tensor(values: Ints) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


def _moved(value: Any, device: torch.device) -> Any:
    """Move every tensor of a plan, whatever part it stands in."""
    if isinstance(value, Tensor):
        if device.type == "cuda":
            return value.pin_memory().to(device, non_blocking=True)
        return value
    if isinstance(value, dict):
        return {key: _moved(part, device) for key, part in value.items()}
    if isinstance(value, Plan | Aim | Sample | Negatives):
        return type(value)(**{key: _moved(part, device) for key, part in vars(value).items()})
    return value
