"""Items that training has never seen: their id vectors mean nothing and are not used.

Such an item is what a new item is while serving: its content and the unknown-id vector (row 0 of
the id table), which id dropout has trained.
"""

# N items, D width, n items that are untrained

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mmsr.training.items import ItemEncoder


def forget_untrained(encoder: ItemEncoder, counts_N: npt.NDArray[np.int64]) -> None:
    """Give the unknown-id vector to every item with a count of 0; counts_N is [N + 1]."""
    encoder.ids.weight.detach().copy_(_forgotten(encoder.ids.weight, counts_N))


@contextmanager
def untrained_forgotten(encoder: ItemEncoder, counts_N: npt.NDArray[np.int64]) -> Iterator[None]:
    """`forget_untrained` on a copy that stands in for the id table; for evaluation only."""
    trained = encoder.ids.weight
    encoder.ids.weight = nn.Parameter(_forgotten(trained, counts_N), requires_grad=False)
    try:
        yield
    finally:
        encoder.ids.weight = trained


@torch.no_grad()
def _forgotten(ids_ND: Tensor, counts_N: npt.NDArray[np.int64]) -> Tensor:
    rows_n = torch.from_numpy(np.flatnonzero(counts_N == 0)).to(ids_ND.device)
    return ids_ND.index_copy(0, rows_n, ids_ND[:1].expand(len(rows_n), -1))
