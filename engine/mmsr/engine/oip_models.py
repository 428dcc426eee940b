"""The models that the Open Inference Protocol sees: tensors in, tensors out, over the service.

Each row of a request is a request of its own in the batcher. Knows nothing of gRPC.
"""

# B rows of the request, L longest history, K most results asked for

import asyncio
import math
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from mmsr.bundle.manifest import GraphSpec, Manifest
from mmsr.engine.batcher import Batcher
from mmsr.engine.encoders import Row
from mmsr.engine.errors import InvalidRequest
from mmsr.engine.oip_statistics import RowTimes
from mmsr.engine.oip_tensors import ANY, BYTES, DATATYPES, Tensor, TensorKind, Texts
from mmsr.engine.service import Query, Reply, Service

Result = TypeVar("Result")

RECOMMENDER = "recommender"
HISTORY = TensorKind("history", BYTES, (ANY, ANY))  # the shop's ids, oldest first; "" is padding
K = TensorKind("k", "INT32", (ANY, 1), spread=True)
IDS = TensorKind("ids", BYTES, (ANY, ANY))  # best first; "" where fewer items are eligible
SCORES = TensorKind("scores", "FP32", (ANY, ANY))  # -inf there


class Asked(NamedTuple):
    """One request to a model."""

    inputs: Mapping[str, Tensor]
    deadline: float | None  # of the batcher's clock
    exclude_seen: bool | None = None  # None: the bundle's default


class Answered(NamedTuple):
    """Its outputs by name, and how each row was computed."""

    outputs: Mapping[str, Tensor]
    rows: Sequence[RowTimes]


class InferenceModel(Protocol):
    """One model of the protocol."""

    @property
    def inputs(self) -> Sequence[TensorKind]:
        """What it reads; the batch comes first in every shape."""

    @property
    def outputs(self) -> Sequence[TensorKind]:
        """What it answers."""

    @property
    def max_rows(self) -> int:
        """How many rows one request may have."""

    async def infer(self, asked: Asked) -> Answered:
        """Answer a request whose inputs have been checked against `inputs`."""


class RecommenderModel:
    """Histories of item ids to the best items."""

    inputs = (HISTORY, K)
    outputs = (IDS, SCORES)

    def __init__(self, service: Service, max_rows: int) -> None:
        self.max_rows = max_rows
        self._service = service

    async def infer(self, asked: Asked) -> Answered:
        """Answer each row like one call of Recommend; raises what that raises."""
        history, k = asked.inputs[HISTORY.name], asked.inputs[K.name]
        assert isinstance(history, Texts)
        assert isinstance(k, np.ndarray)
        rows = history.rows()
        ks: list[int] = np.broadcast_to(k.reshape(-1), len(rows)).tolist()
        replies = await together(
            [
                self._service.recommend(
                    Query(item_ids(row), row_k, exclude_seen=asked.exclude_seen), asked.deadline
                )
                for row, row_k in zip(rows, ks, strict=True)
            ]
        )
        ids, scores_BK = padded(replies, max(ks))
        times = [RowTimes(r.queue_us, r.compute_us, r.batch_size) for r in replies]
        return Answered({IDS.name: ids, SCORES.name: scores_BK}, times)


class EncoderModel:
    """One encoder of the bundle: what its graph reads to the frozen feature."""

    def __init__(
        self,
        spec: GraphSpec,
        batcher: Batcher[Row, npt.NDArray[np.float32]],
        *,
        max_rows: int,
        bounds: Mapping[str, int],
        longest: int | None,
    ) -> None:
        self.inputs, self.outputs = kinds_of(spec, "inputs"), kinds_of(spec, "outputs")
        self.max_rows = max_rows
        self._batcher = batcher
        self._bounds = bounds  # input -> the least value that is too large
        self._longest = longest  # texts: tokens

    async def infer(self, asked: Asked) -> Answered:
        """Encode each row; raises what `Batcher.submit` raises."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, tensor in asked.inputs.items():
            assert isinstance(tensor, np.ndarray)
            self._check(name, tensor)
            arrays[name] = tensor
        if len({array.shape for array in arrays.values()}) > 1:
            shapes = ", ".join(f"'{name}' {list(a.shape)}" for name, a in arrays.items())
            raise InvalidRequest(f"the inputs differ in their shapes: {shapes}")
        count = len(next(iter(arrays.values())))
        rides = await together(
            [
                self._batcher.submit({name: a[row] for name, a in arrays.items()}, asked.deadline)
                for row in range(count)
            ]
        )
        (output,) = self.outputs
        times = [RowTimes(ride.queue_us, ride.compute_us, ride.batch_size) for ride in rides]
        return Answered({output.name: np.stack([ride.answer for ride in rides])}, times)

    def _check(self, name: str, array: npt.NDArray[Any]) -> None:
        """Refuse what the graph could not compute: it would fail the whole batch."""
        width = math.prod(array.shape[1:])
        if width == 0 or (self._longest is not None and width > self._longest):
            most = "" if self._longest is None else f" to {self._longest}"
            raise InvalidRequest(
                f"input '{name}' has the shape {list(array.shape)}; expected 1{most} elements a row"
            )
        bound = self._bounds.get(name)
        if bound is not None and (array.min() < 0 or array.max() >= bound):
            raise InvalidRequest(
                f"input '{name}' holds values from {array.min()} to {array.max()}; expected 0 to "
                f"{bound - 1}"
            )


def kinds_of(spec: GraphSpec, which: str) -> tuple[TensorKind, ...]:
    """Return the inputs or outputs of a graph in the protocol's terms."""
    return tuple(
        TensorKind(
            tensor.name,
            DATATYPES[tensor.dtype],
            tuple(size if isinstance(size, int) else ANY for size in tensor.shape),
        )
        for tensor in getattr(spec, which)
    )


def text_length(manifest: Manifest) -> int | None:
    """Return how many tokens the text encoder reads at most, where the bundle says so."""
    text: Mapping[str, Any] = manifest.features.get("text") or {}
    return text.get("max_tokens")


def item_ids(row: Sequence[bytes]) -> list[str]:
    """Return the ids of one row of `history` without its padding."""
    try:
        return [item_id.decode() for item_id in row if item_id]
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"input 'history' holds an id that is no UTF-8 ({error}); expected the shop's item ids"
        ) from None


def padded(replies: Sequence[Reply], k: int) -> tuple[Texts, npt.NDArray[np.float32]]:
    """Return ids and scores [B, K]; empty ids with -inf where a row has fewer than K."""
    scores_BK = np.full((len(replies), k), -np.inf, np.float32)
    ids: list[bytes] = []
    for line, reply in zip(scores_BK, replies, strict=True):
        found = len(reply.item_ids)
        line[:found] = reply.scores
        ids += [item_id.encode() for item_id in reply.item_ids]
        ids += [b""] * (k - found)
    return Texts(ids, scores_BK.shape), scores_BK


async def together(calls: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Await all calls at once; the first error ends the others and is raised."""
    if len(calls) == 1:
        return [await calls[0]]
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
