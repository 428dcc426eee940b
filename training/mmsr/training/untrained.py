"""Items that training has never seen: their id vectors mean nothing and are not used.

Such an item is what a new item is while serving: its content and the unknown-id vector (row 0 of
the id table), which id dropout has trained, times [model] unknown_id_scale. That vector says "this
is somewhat less likely than what is known", and the less of it there is, the higher new items rank.
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
    """Give the unknown-id vector to every item with a count of 0; counts_N is [N + 1].

    Row 0 becomes that vector too, scaled as new items get it. What is done already stays as it is.
    """
    if not encoder.untrained_are_forgotten:
        encoder.ids.weight.detach().copy_(_forgotten(encoder, counts_N))
        encoder.untrained_are_forgotten = True


@contextmanager
def untrained_forgotten(encoder: ItemEncoder, counts_N: npt.NDArray[np.int64]) -> Iterator[None]:
    """`forget_untrained` on a copy that stands in for the id table; for evaluation only."""
    if encoder.untrained_are_forgotten:
        yield
        return
    trained = encoder.ids.weight
    encoder.ids.weight = nn.Parameter(_forgotten(encoder, counts_N), requires_grad=False)
    try:
        yield
    finally:
        encoder.ids.weight = trained


@torch.no_grad()
def _forgotten(encoder: ItemEncoder, counts_N: npt.NDArray[np.int64]) -> Tensor:
    ids_ND = encoder.ids.weight
    rows_n = torch.from_numpy(np.flatnonzero(counts_N == 0)).to(ids_ND.device)
    unknown_1D = encoder.config.unknown_id_scale * ids_ND[:1]
    return ids_ND.index_copy(0, rows_n, unknown_1D.expand(len(rows_n), -1))
