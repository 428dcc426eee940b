"""The requests of a benchmark: real histories of the bundle, encoded before the clock starts.

Knows the bundle and mmsr.v1; nothing of how requests are sent.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmsr.bundle.catalogue import Catalogue, load_catalogue
from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import load_manifest
from mmsr.engine.opened import PROBE
from mmsr.engine.probe import load_probe
from mmsr.v1.recommender_pb2 import RecommendRequest

# P histories, L longest length, N items

Rows = npt.NDArray[np.int64]
SYNTHETIC_COUNT = 1000


@dataclass(frozen=True, kw_only=True)
class Histories:
    """Item ids, oldest first, and where they come from ("probe" or "synthetic")."""

    source: str
    item_ids: list[list[str]]


def load_histories(bundle: Path, seed: int) -> Histories:
    """Return the histories of the bundle's probe set as the item ids that a shop would send.

    Without a probe set they are drawn by popularity. `BundleError` if the bundle is damaged.
    """
    catalogue = load_catalogue(bundle)
    if (bundle / PROBE).is_file():
        probe = load_probe(bundle, len(catalogue))
        return Histories(source="probe", item_ids=_ids(catalogue, probe.history_PL, probe.length_P))
    max_length = load_manifest(bundle).max_length
    rows_PL = popular_rows(catalogue, (SYNTHETIC_COUNT, max_length), seed)
    length_P = np.random.default_rng(seed).integers(1, max_length + 1, SYNTHETIC_COUNT)
    return Histories(source="synthetic", item_ids=_ids(catalogue, rows_PL, length_P))


def popular_rows(catalogue: Catalogue, shape: tuple[int, ...], seed: int) -> Rows:
    """Return random rows of that shape; an item is drawn as often as it is popular."""
    if not len(catalogue):
        raise BundleError("the bundle's catalogue is empty; export the model again")
    weights_N = catalogue.popularity + 1.0  # an item that nobody bought may still be looked at
    chosen = np.random.default_rng(seed).choice(
        len(catalogue), shape, p=weights_N / weights_N.sum()
    )
    return chosen.astype(np.int64) + 1


def encode_requests(histories: Histories, k: int, seed: int) -> list[bytes]:
    """Return one encoded `RecommendRequest` a history, in an order that follows from `seed`."""
    order = np.random.default_rng(seed).permutation(len(histories.item_ids))
    return [
        RecommendRequest(history=histories.item_ids[i], k=k).SerializeToString()
        for i in order.tolist()
    ]


def _ids(catalogue: Catalogue, rows_PL: Rows, length_P: Rows) -> list[list[str]]:
    return [
        [catalogue.item_ids[row - 1] for row in rows_L[:length]]
        for rows_L, length in zip(rows_PL.tolist(), length_P.tolist(), strict=True)
    ]
