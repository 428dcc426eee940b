"""Draws the negatives of the sampled softmax. Knows nothing of models."""

# N items, n negatives

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """Rows drawn for one step, with replacement."""

    rows_n: Tensor  # int64 [n]
    log_expected_n: Tensor  # float32 [n], taken off their scores


class NegativeSampler(nn.Module):
    """Draws rows with chances proportional to purchases ** power.

    An item that nobody bought yet is never drawn: that it was not bought says nothing of it.
    Corrected, a negative's score loses log(n q), how often it is expected among the n draws, so
    that few of them stand for the whole catalogue; else nothing is taken off.
    """

    chance_N: Tensor
    cumulative_N: Tensor

    def __init__(self, counts_N: Tensor, power: float, corrected: bool = True) -> None:
        """`counts_N` [N + 1] says how often each row was bought; row 0 is never drawn."""
        super().__init__()
        self.corrected = corrected
        bought_N = counts_N > 0
        bought_N[0] = False
        chance_N = torch.where(bought_N, counts_N.double() ** power, 0.0)
        chance_N /= chance_N.sum()
        self.register_buffer("chance_N", chance_N, persistent=False)
        self.register_buffer("cumulative_N", chance_N.cumsum(0), persistent=False)

    def forward(self, negatives: int) -> Negatives:
        """Draw; costs negatives x log N whatever N is."""
        cumulative_N = self.cumulative_N
        at_n = torch.rand(negatives, dtype=torch.float64, device=cumulative_N.device)
        rows_n = torch.searchsorted(cumulative_N, at_n * cumulative_N[-1], right=True)
        rows_n = rows_n.clamp_max(len(cumulative_N) - 1)
        if not self.corrected:
            return Negatives(rows_n=rows_n, log_expected_n=torch.zeros(negatives))
        expected_n = self.chance_N[rows_n] * negatives
        return Negatives(rows_n=rows_n, log_expected_n=expected_n.log().float())
