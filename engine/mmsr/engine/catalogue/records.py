"""What the live catalogue knows of an item, apart from any bundle. Values only."""

# F features of a modality

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class FeatureKey(NamedTuple):
    """What a frozen feature follows from: equal keys, equal features."""

    modality: str  # "image" or "text"
    encoder: str  # `encoders.Encoder.key`
    content: bytes  # SHA-256 of the image file, of the composed text or of a given feature


class Content(NamedTuple):
    """What a shop said of an item; empty: nothing."""

    title: str = ""
    description: str = ""
    brand: str = ""
    categories: tuple[str, ...] = ()
    image: bytes = b""  # SHA-256 of the image file, or of the feature given in its place
    text: bytes = b""  # SHA-256 of the feature given in the texts' place


class Record(NamedTuple):
    """The latest word on one item."""

    item_id: str
    version: int  # of the catalogue, from which on it holds
    # None: only its availability was set, or it was deleted; all else is the bundle's.
    content: Content | None = None
    available: bool = True
    popularity: int | None = None  # None: nobody has said
    deleted: bool = False
    written_s: float = 0.0  # when the content was written, in seconds since 1970, UTC


class Write(NamedTuple):
    """A record to keep."""

    record: Record
    # None: those of the record before stay, as its content does.
    features: Mapping[FeatureKey, Floats] | None = None
    image: bytes = b""  # the file, kept so that another encoder can read it
