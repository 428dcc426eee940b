"""Image files and texts to frozen features, by the encoders of a bundle.

Both steps of an image run in processes of their own (`worker`), one call at a time and at low
priority: a picture that takes all memory ends its process, and serving goes on.
"""

# F features of a modality

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmsr.bundle.compose import compose_text
from mmsr.bundle.files import sha256_json
from mmsr.bundle.manifest import Manifest
from mmsr.bundle.preprocess import ImageError
from mmsr.engine.catalogue.projector import Projector, modality_widths
from mmsr.engine.catalogue.records import Content, FeatureKey, Floats
from mmsr.engine.catalogue.workers import DecoderEndedError, Worker
from mmsr.engine.errors import EncoderEnded, RunnerFailed, Unavailable

# Of an encoder's description: where it was found, and what is encoded; neither changes an answer.
NOT_IN_KEY = ("weights_source", "source", "text_fields")


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """How one bundle makes the features of one modality."""

    modality: str
    key: str  # equal keys, equal features
    width: int  # F
    folder: Path  # of the bundle
    spec: Mapping[str, Any]  # as in the manifest

    def text_of(self, content: Content, projector: Projector) -> str:
        """Return the text that this encoder reads of an item."""
        item = {
            "title": content.title,
            "description": content.description,
            "brand": content.brand,
            "categories": projector.categories(content),
        }
        return compose_text(item, self.spec["text_fields"])

    def feature_key(self, content: bytes) -> FeatureKey:
        """Return what the feature of a content (its SHA-256) is kept under."""
        return FeatureKey(self.modality, self.key, content)


def encoders_of(folder: Path, manifest: Manifest) -> dict[str, Encoder]:
    """Return a bundle's encoders by modality; none for what its items do not have."""
    widths = modality_widths(manifest)
    found: dict[str, Encoder] = {}
    for modality in ("image", "text"):
        spec = manifest.features.get(modality)
        if spec is None or modality not in widths or f"{modality}_encoder" not in manifest.graphs:
            continue
        described = {name: value for name, value in spec.items() if name not in NOT_IN_KEY}
        if modality == "text":
            described["precision"] = manifest.provenance.get("text_precision", "fp32")
        found[modality] = Encoder(
            modality=modality,
            key=sha256_json(described)[:16],
            width=widths[modality],
            folder=folder,
            spec=spec,
        )
    return found


@dataclass(frozen=True, kw_only=True)
class EncodeLimits:
    """What one image or text may take; beyond it, its process is ended."""

    decode_s: float = 20.0
    encode_s: float = 120.0  # the first call loads the encoder
    decode_bytes: int = 2 << 30  # of address space


class Encoders:
    """The two processes; started when they are first needed, ended by `close`."""

    def __init__(self, limits: EncodeLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()  # one encode at a time, whoever asks
        self._closed = False
        self._decoder = Worker("decode", limits.decode_bytes)
        self._encoder = Worker("encode", None)

    def image(self, encoder: Encoder, file: bytes) -> Floats:
        """Return the feature [F] of an image file; `ImageError` says what is wrong with it."""
        with self._asking():
            header = {"preprocess": encoder.spec["preprocess"]}
            answer, pixels = self._ask(self._decoder, header, file, self._limits.decode_s)
            header = {**_graph(encoder), "shape": answer["shape"]}
            return self._feature(encoder, header, pixels)

    def text(self, encoder: Encoder, text: str) -> Floats:
        """Return the feature [F] of a text."""
        with self._asking():
            return self._feature(encoder, _graph(encoder), text.encode())

    @property
    def pids(self) -> tuple[int | None, int | None]:
        """The ids of the processes; None for one that runs not."""
        return self._decoder.pid, self._encoder.pid

    def close(self) -> None:
        """End the processes, and what they are at: it fails with `Unavailable`."""
        self._closed = True
        self._decoder.kill()
        self._encoder.kill()
        with self._lock:
            self._decoder.close()
            self._encoder.close()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Hold the processes; what fails because they are being ended is `Unavailable`."""
        with self._lock:
            self._check_open()
            try:
                yield
            except (ImageError, RunnerFailed):
                self._check_open()
                raise

    def _ask(
        self, worker: Worker, header: Mapping[str, Any], payload: bytes, limit_s: float
    ) -> tuple[dict[str, Any], bytes]:
        """Ask a process, and another one if it ends meanwhile.

        The system may have ended it for want of memory, by no fault of this item; what ends two
        processes has ended them.
        """
        try:
            return worker.ask(header, payload, limit_s)
        except (DecoderEndedError, EncoderEnded):
            self._check_open()
            return worker.ask(header, payload, limit_s)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the server is stopping; send the request to another one")

    def _feature(self, encoder: Encoder, header: Mapping[str, Any], payload: bytes) -> Floats:
        _, values = self._ask(self._encoder, header, payload, self._limits.encode_s)
        return np.frombuffer(values, np.float32)


def _graph(encoder: Encoder) -> dict[str, Any]:
    return {
        "modality": encoder.modality,
        "key": encoder.key,
        "folder": str(encoder.folder),
    }


def key_of(content: bytes) -> bytes:
    """Return the name of a content: its SHA-256."""
    return hashlib.sha256(content).digest()
