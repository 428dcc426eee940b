"""Encoders behind the Open Inference Protocol: a thread and a queue of their own.

An image takes as long as a hundred recommendations; these must not wait behind it.
"""

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from mmsr.engine.batch_times import BatchTimes
from mmsr.engine.batcher import Batcher
from mmsr.engine.compute import ComputeThread
from mmsr.engine.config import BatchConfig
from mmsr.engine.encoders import IMAGE_ENCODER, TEXT_ENCODER, Row
from mmsr.engine.model import SequenceModel
from mmsr.engine.oip_models import EncoderModel, text_length

MAX_ROWS = {IMAGE_ENCODER: 16, TEXT_ENCODER: 64}  # computed together, and of one request
QUEUED_ROWS = 256  # pixels of an image take 150 KB


class Encoding:
    """The encoders of the bundles in use, each made when it is first asked."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._compute: ComputeThread | None = None
        self._models: WeakKeyDictionary[SequenceModel, dict[str, EncoderModel]] = (
            WeakKeyDictionary()
        )

    def model(self, name: str, bundle_model: SequenceModel) -> EncoderModel:
        """Return the encoder `name` of a bundle that has it; called on the event loop."""
        made = self._models.setdefault(bundle_model, {})
        if name not in made:
            made[name] = self._make(name, bundle_model)
        return made[name]

    def close(self) -> None:
        """Let the thread end after what is queued."""
        if self._compute is not None:
            self._compute.close()

    def join(self, limit_s: float) -> bool:
        """Wait up to `limit_s` for the thread to end after `close`; return whether it has."""
        return self._compute is None or self._compute.join(limit_s)

    def _make(self, name: str, bundle_model: SequenceModel) -> EncoderModel:
        if self._compute is None:
            self._compute = ComputeThread(asyncio.get_running_loop())
            self._compute.start()
        rows = MAX_ROWS[name]
        encoder = bundle_model.encoders[name]
        batcher = Batcher[Row, npt.NDArray[np.float32]](
            encoder.encode,
            self._compute,
            BatchConfig(max_batch=rows, queue_limit=QUEUED_ROWS),
            clock=self._clock,
            times=BatchTimes(),
        )
        bounds, longest = {}, None
        if encoder.tokens:
            bounds = {"input_ids": encoder.tokens, "attention_mask": 2}
            longest = text_length(bundle_model.bundle.manifest)
        return EncoderModel(encoder.spec, batcher, max_rows=rows, bounds=bounds, longest=longest)
