"""Reads finished features. Knows nothing of how they are made and never imports torch."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmsr.bundle.errors import one_line
from mmsr.bundle.files import read_json
from mmsr.bundle.tables import UNREADABLE, read_only
from mmsr.training.dataset import Dataset
from mmsr.training.features.config import FeaturesError

FEATURES_FORMAT = 1
FEATURES_FILE = "features.json"


class NoFeaturesError(FeaturesError):
    """There are no features that can be used; says with which command they are made."""

    def __init__(self, reason: str, data: Path, recipe: Path | None = None) -> None:
        command = ["mmsr-train", "features", str(data)]
        if recipe is not None:
            command += ["--config", str(recipe)]
        super().__init__(f"{reason}; run: {shlex.join(command)}")
        self.reason = reason
        self.data = data


@contextmanager
def naming_recipe(recipe: Path) -> Iterator[None]:
    """Let the command in a `NoFeaturesError` name the recipe whose features are missing."""
    try:
        yield
    except NoFeaturesError as error:
        raise NoFeaturesError(error.reason, error.data, recipe) from None


@dataclass(frozen=True, kw_only=True)
class ModalityFeatures:
    """Row i belongs to item row i + 1; rows that are not present are zeros."""

    values_ND: npt.NDArray[np.float32]  # memory-mapped
    present_N: npt.NDArray[np.bool_]
    spec: dict[str, Any]  # `ImageEncoderSpec.from_json` or `TextEncoderSpec.from_json` reads it
    dim: int


@dataclass(frozen=True, kw_only=True)
class Features:
    """A modality that no item has is None."""

    image: ModalityFeatures | None
    text: ModalityFeatures | None
    settings: dict[str, Any]  # `FeaturesConfig.shaping()` of the run that made them


def features_folder(dataset: Dataset) -> Path:
    """Return where the features of a data set are."""
    return dataset.folder / "features"


def open_features(dataset: Dataset) -> Features:
    """Open the features of `dataset`.

    Raises `NoFeaturesError` with the command to run when there are none, when they were made from
    other data or by another release, and when they are damaged.
    """
    folder = features_folder(dataset)
    path = folder / FEATURES_FILE
    if not path.is_file():
        raise NoFeaturesError(f"{dataset.folder} has no features (no {path})", dataset.folder)
    raw = read_json(path, "a description of features")
    if not isinstance(raw, dict) or raw.get("format") != FEATURES_FORMAT:
        raise NoFeaturesError(f"{path} is not of format {FEATURES_FORMAT}", dataset.folder)
    if raw.get("data_hash") != dataset.info.content_hash:
        raise NoFeaturesError(f"{path}: the data have changed since", dataset.folder)
    try:
        return Features(
            image=_open(folder, "image", raw["image"], dataset.info.items),
            text=_open(folder, "text", raw["text"], dataset.info.items),
            settings=raw["settings"],
        )
    except (*UNREADABLE, KeyError) as error:
        raise NoFeaturesError(f"{folder} is damaged ({one_line(error)})", dataset.folder) from None


def _open(folder: Path, name: str, raw: Any, items: int) -> ModalityFeatures | None:
    if raw is None:
        return None
    values_ND = read_only(folder / f"{name}.npy")
    present_N = np.array(read_only(folder / f"{name}_present.npy"))
    dim = int(raw["dim"])
    if values_ND.shape != (items, dim) or values_ND.dtype != np.float32:
        raise ValueError(f"{name}.npy is {values_ND.dtype} {values_ND.shape}, not {(items, dim)}")
    if present_N.shape != (items,) or present_N.dtype != np.bool_:
        raise ValueError(f"{name}_present.npy is {present_N.dtype} {present_N.shape}")
    return ModalityFeatures(values_ND=values_ND, present_N=present_N, spec=raw["spec"], dim=dim)
