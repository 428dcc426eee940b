"""The frozen encoders of a bundle: pixels or tokens to features. Loaded when they are first asked.

Knows graphs and arrays; nothing of items, image files or gRPC.
"""

# B rows in the batch, T tokens of the longest text, W width of the feature

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmsr.bundle.errors import BundleError, MmsrError
from mmsr.bundle.files import read_json
from mmsr.bundle.manifest import GraphSpec, Manifest
from mmsr.engine.errors import Unavailable
from mmsr.engine.opened import OpenedBundle
from mmsr.engine.precision import FP32
from mmsr.engine.runners.base import AnyArray, Runner
from mmsr.engine.runners.choose import Runners

IMAGE_ENCODER = "image_encoder"
TEXT_ENCODER = "text_encoder"
ENCODERS = (IMAGE_ENCODER, TEXT_ENCODER)
TOKENIZER = "tokenizer.json"
Row = Mapping[str, AnyArray]  # the graph's inputs of one image or text, without the batch dimension


class Encoder:
    """One encoder graph; one call at a time, `close` may come from another thread."""

    def __init__(
        self, spec: GraphSpec, open_runner: Callable[[], Runner], *, tokens: int = 0
    ) -> None:
        self.spec = spec
        self.tokens = tokens  # that a text may be made of: their ids are below it; 0: no texts
        self._open_runner = open_runner
        self._runner: Runner | None = None
        self._closed = False
        self._lock = threading.Lock()

    def encode(self, rows: Sequence[Row]) -> list[npt.NDArray[np.float32]]:
        """Return the features [W] of the rows, computed as one batch.

        Texts may differ in length; the shorter ones are padded with zeros, which the mask hides.
        `Unavailable` after `close`, `BundleError` if the graph cannot be loaded.
        """
        with self._lock:
            if self._closed:
                raise Unavailable("another bundle has taken over; send the request again")
            if self._runner is None:
                self._runner = self._open_runner()
            inputs = {tensor.name for tensor in self.spec.inputs}
            batch = {name: stacked([row[name] for row in rows]) for name in inputs}
            outputs = self._runner.run(batch)
        (feature_BW,) = outputs.values()
        return list(feature_BW)

    def close(self) -> None:
        """Free the runner, after the call that is under way."""
        with self._lock:
            self._closed = True
            if self._runner is not None:
                self._runner.close()
                self._runner = None


def stacked(arrays: Sequence[AnyArray]) -> AnyArray:
    """Return arrays of equal rank as one [B, …], zeros behind those that are shorter."""
    shapes = {array.shape for array in arrays}
    if len(shapes) == 1:
        return np.stack(arrays)
    longest = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
    batch = np.zeros((len(arrays), *longest), arrays[0].dtype)
    for line, array in zip(batch, arrays, strict=True):
        line[tuple(slice(size) for size in array.shape)] = array
    return batch


def open_encoders(bundle: OpenedBundle, runners: Runners) -> dict[str, Encoder]:
    """Return the encoders that the bundle has, by name; `BundleError` if its tokenizer is none."""
    return {
        name: Encoder(
            bundle.manifest.graphs[name],
            partial(_open_graph, bundle, name, runners),
            tokens=count_tokens(bundle.folder / TOKENIZER) if name == TEXT_ENCODER else 0,
        )
        for name in ENCODERS
        if name in bundle.manifest.graphs
    }


def _open_graph(bundle: OpenedBundle, name: str, runners: Runners) -> Runner:
    return runners.open(bundle, name).runner


def text_precision_of(manifest: Manifest) -> str:
    """Return what a bundle's text encoder is written in."""
    return str(manifest.provenance.get("text_precision", FP32))


def count_tokens(path: Path) -> int:
    """Return how many tokens a tokenizer file knows; their ids are 0 to that less one."""
    try:
        tokenizer = read_json(path, "a tokenizer")
        vocabulary = tokenizer["model"]["vocab"]
        added = [token["id"] for token in tokenizer.get("added_tokens", ())]
        # BERT's and BPE's are dictionaries to the id; Unigram's is a list in the order of the ids.
        ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        return int(1 + max(*added, *ids))
    except (KeyError, TypeError, ValueError, AttributeError, MmsrError) as error:
        raise BundleError(f"{path} is no tokenizer ({error!r}); export the model again") from None
