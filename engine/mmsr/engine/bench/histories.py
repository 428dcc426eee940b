"""The requests of a benchmark: real histories of the bundle, encoded before the clock starts.

Knows the bundle and mmsr.v1; nothing of how requests are sent.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmsr.bundle.catalogue import Catalogue, load_catalogue
from mmsr.bundle.errors import BundleError
from mmsr.engine.probe_set import load_probe
from mmsr.v1.recommender_pb2 import RecommendRequest

Rows = npt.NDArray[np.int64]


def load_histories(bundle: Path) -> list[list[str]]:
    """Return the histories of the bundle's probe set as the item ids that a shop would send.

    Oldest first. `BundleError` if the bundle is damaged.
    """
    catalogue = load_catalogue(bundle)
    probe = load_probe(bundle, len(catalogue))
    return [
        [catalogue.item_ids[row - 1] for row in rows_L[:length]]
        for rows_L, length in zip(probe.history_PL.tolist(), probe.length_P.tolist(), strict=True)
    ]


def popular_rows(catalogue: Catalogue, shape: tuple[int, ...], seed: int) -> Rows:
    """Return random rows of that shape; an item is drawn as often as it is popular."""
    if not len(catalogue):
        raise BundleError("the bundle's catalogue is empty; export the model again")
    weights_N = catalogue.popularity + 1.0  # an item that nobody bought may still be looked at
    chosen = np.random.default_rng(seed).choice(
        len(catalogue), shape, p=weights_N / weights_N.sum()
    )
    return chosen.astype(np.int64) + 1


def any_rows(items: int, shape: tuple[int, ...], seed: int) -> Rows:
    """Return random rows of that shape, each item as often as any other."""
    return np.random.default_rng(seed).integers(1, items + 1, shape)


def encode_requests(histories: list[list[str]], k: int, seed: int) -> list[bytes]:
    """Return one encoded `RecommendRequest` a history, in an order that follows from `seed`."""
    order = np.random.default_rng(seed).permutation(len(histories))
    return [RecommendRequest(history=histories[i], k=k).SerializeToString() for i in order.tolist()]
