"""From a cache full of features to the matrix of all items."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmsr.bundle.files import atomic_path
from mmsr.bundle.tables import create_table, save_table
from mmsr.training.features.cache import NO_KEY, FeatureCache, Keys, contains
from mmsr.training.features.report import ModalityReport, Rejected
from mmsr.training.features.specs import ImageEncoderSpec, TextEncoderSpec

# N items, U distinct contents, D feature width, M records of a shard that items refer to


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A modality whose contents are all encoded."""

    spec: ImageEncoderSpec | TextEncoderSpec
    cache: FeatureCache
    keys_N: Keys  # each item's content, NO_KEY where it has none
    encoded: int  # contents, in this run


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one modality's stage found; `result` is None where no item has anything to encode."""

    items: int
    result: Encoded | None
    seconds: float
    rejected: list[Rejected] = field(default_factory=list)


def write_modality(folder: Path, name: str, stage: Stage) -> tuple[Any, ModalityReport]:
    """Write `<name>.npy` and `<name>_present.npy`, or remove them if no item has a feature.

    Returns the modality's part of `features.json`, and its report.
    """
    values, present = folder / f"{name}.npy", folder / f"{name}_present.npy"
    result = stage.result
    count = used = 0
    if result is not None:
        present_N, used = _write_matrix(result, values)
        count = int(present_N.sum())
        with atomic_path(present) as temporary:
            save_table(temporary, present_N)
    if not count:
        values.unlink(missing_ok=True)
        present.unlink(missing_ok=True)
    encoded = result.encoded if result else 0
    report = ModalityReport(
        items=stage.items,
        present=count,
        encoded=encoded,
        cached=used - encoded,
        seconds=stage.seconds,
        rejected=stage.rejected,
    )
    if result is None or not count:
        return None, report
    return {"spec": result.spec.to_json(), "dim": result.spec.dim, "present": count}, report


def _write_matrix(result: Encoded, path: Path) -> tuple[npt.NDArray[np.bool_], int]:
    """Write float32 [N, D], zeros where missing; return who is present and how many contents."""
    keys_U, order, bounds = _group(result.keys_N)
    present_N = np.zeros(len(result.keys_N), np.bool_)
    used_U = np.zeros(len(keys_U), np.bool_)
    with atomic_path(path) as temporary:
        values_ND = create_table(temporary, (len(present_N), result.cache.dim))
        for records in result.cache.shards():
            wanted_M = records[contains(keys_U, records["key"])]
            contents_M = np.searchsorted(keys_U, wanted_M["key"])
            used_U[contents_M] = True
            for content, feature_D in zip(contents_M, wanted_M["feature"], strict=True):
                rows = order[bounds[content] : bounds[content + 1]]
                values_ND[rows] = feature_D
                present_N[rows] = True
        values_ND.flush()
        del values_ND
    return present_N, int(used_U.sum())


def _group(keys_N: Keys) -> tuple[Keys, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the distinct keys, and the items of the i-th as order[bounds[i] : bounds[i + 1]]."""
    items = np.flatnonzero(keys_N != NO_KEY)
    keys_U, content = np.unique(keys_N[items], return_inverse=True)
    by_content = np.argsort(content, kind="stable")
    bounds = np.searchsorted(content[by_content], np.arange(len(keys_U) + 1))
    return keys_U, items[by_content], bounds
