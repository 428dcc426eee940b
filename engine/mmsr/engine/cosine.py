"""Exact cosines of one vector and all rows of a table, and the best of them."""

# C rows of the table, n of one piece, D columns

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

# Rows whose products and lengths are computed while they are in the processor's cache: so a pass
# for both costs what one for the products does, and no table of lengths goes stale.
BLOCK = 2048


def cosines(table_nD: Floats, query_D: Floats) -> Floats:
    """Return [n], 0 where a vector has no length."""
    query_D = np.asarray(query_D, np.float32)
    length = np.float32(np.sqrt(query_D @ query_D))
    cosine_n = np.zeros(len(table_nD), np.float32)
    if length == 0:
        return cosine_n
    unit_D = query_D / length
    for begin in range(0, len(table_nD), BLOCK):
        block_nD = np.asarray(table_nD[begin : begin + BLOCK], np.float32)
        squared_n = np.einsum("nd,nd->n", block_nD, block_nD)
        # No BLAS: its threads would fight the runner's for the cores.
        product_n = np.einsum("nd,d->n", block_nD, unit_D)
        np.divide(
            product_n,
            np.sqrt(squared_n),
            out=cosine_n[begin : begin + BLOCK],
            where=squared_n > 0,
        )
    return np.clip(cosine_n, -1.0, 1.0, out=cosine_n)


def slices(rows: int, size: int) -> Iterator[slice]:
    """Cut so many rows into pieces."""
    return (slice(begin, min(rows, begin + size)) for begin in range(0, rows, size))


def best(cosine_n: Floats, rows_n: Rows, k: int) -> tuple[Rows, Floats]:
    """Return the k rows with the largest cosines and these, the best first, ties by row.

    `rows_n` ascends.
    """
    if len(cosine_n) > k:
        least = np.partition(cosine_n, len(cosine_n) - k)[len(cosine_n) - k]
        kept_m = np.flatnonzero(cosine_n >= least)  # all that tie for the last place
        cosine_n, rows_n = cosine_n[kept_m], rows_n[kept_m]
    order = np.argsort(-cosine_n, kind="stable")[:k]
    return rows_n[order], cosine_n[order]
