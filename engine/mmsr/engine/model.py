"""One bundle, ready to compute: lists of rows in, the best rows and their scores out.

Knows the sequence graph and its tables. Knows nothing of item ids, waiting or gRPC.
"""

# B requests in the batch, L longest history, E longest exclusion, K most results asked for,
# N items in the catalogue

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmsr.engine.catalogue.placement import Placement
from mmsr.engine.encoders import open_encoders
from mmsr.engine.explain import Explainer, Explanation, open_explain
from mmsr.engine.filters import RowFilters
from mmsr.engine.items import NEVER, eligibility
from mmsr.engine.opened import OpenedBundle, open_bundle
from mmsr.engine.rows import CategoryFilter, RowAnswer, RowRequest
from mmsr.engine.runners.base import AnyArray, Runner
from mmsr.engine.runners.onnx import open_onnx

__all__ = ["CategoryFilter", "RowAnswer", "RowRequest", "SequenceModel", "open_model"]

MOST_LINES = 8  # of the bias in one run: what engines are built for


class SequenceModel:
    """A verified bundle and the runner that computes its sequence graph.

    `threads` share one operator of the graphs that are loaded when they are first used: explain and
    the encoders.
    """

    def __init__(self, bundle: OpenedBundle, runner: Runner, *, threads: int = 1) -> None:
        self.bundle = bundle
        self.runner = runner
        self.filters = RowFilters(bundle.catalogue, bundle.manifest.tables.capacity)
        self.placement = Placement()  # requests and answers speak of numbers, see there
        self.explainer = Explainer(bundle, partial(open_explain, bundle, threads))
        self.encoders = open_encoders(bundle, threads)
        self.version = bundle.manifest.bundle_id
        self.max_length = bundle.manifest.max_length

    def bind(self) -> None:
        """Hand the tables and the availability of the items to the runner."""
        self.runner.bind("item_inputs", self.bundle.item_inputs_CW)
        self.runner.bind("item_outputs", self.bundle.item_outputs_CD)
        for name, table in self.bundle.codes.items():
            self.runner.bind(name, table)
        self.bind_eligible(self.filters.available_C[1:])

    def bind_eligible(self, eligible_N: npt.NDArray[np.bool_]) -> None:
        """Say which items may come back at all (line 0 of the graph's bias)."""
        self.runner.bind("bias", eligibility(eligible_N, self.bundle.manifest.tables.capacity))

    def recommend(self, requests: Sequence[RowRequest]) -> list[RowAnswer]:
        """Answer a batch; each answer is the same as if its request came alone."""
        return self.placement.named(self._recommend(self.placement.placed(requests)))

    def most_popular(self, request: RowRequest) -> RowAnswer:
        """Return the k most popular items that pass the filters; in any thread."""
        with self.placement.lock:
            [placed] = self.placement.placed([request])
            return self.placement.named([self.filters.most_popular(placed)])[0]

    def _recommend(self, requests: Sequence[RowRequest]) -> list[RowAnswer]:
        filtered = [place for place, request in enumerate(requests) if _has_filters(request)]
        if not filtered:
            return self._run(requests, assemble(requests))
        plain = [place for place in range(len(requests)) if place not in set(filtered)]
        answers: dict[int, RowAnswer] = {}
        if plain:
            some = [requests[place] for place in plain]
            answers.update(zip(plain, self._run(some, assemble(some)), strict=True))
        for begin in range(0, len(filtered), MOST_LINES):
            places = filtered[begin : begin + MOST_LINES]
            found = self._run_filtered([requests[place] for place in places])
            answers.update(zip(places, found, strict=True))
        return [answers[place] for place in range(len(requests))]

    def _run_filtered(self, requests: Sequence[RowRequest]) -> list[RowAnswer]:
        masks_BC = np.stack([self.filters.mask(request) for request in requests])
        self.runner.bind("bias", np.where(masks_BC, np.float32(0), NEVER))
        try:
            inputs = assemble(requests)
            return self._run(requests, {**inputs, "bias_row": np.arange(len(requests))})
        finally:
            self.bind_eligible(self.filters.available_C[1:])

    def _run(self, requests: Sequence[RowRequest], inputs: dict[str, AnyArray]) -> list[RowAnswer]:
        outputs = self.runner.run(inputs)
        return split(requests, outputs["rows"], outputs["scores"])

    def explain(self, history: Sequence[int], rows: Sequence[int]) -> Explanation:
        """Say what the scores of `rows` hang on; see `Explainer.explain`."""
        place = self.placement.rows
        found = self.explainer.explain(place(history), place(rows))
        named = [replace(item, row=row) for item, row in zip(found.items, rows, strict=True)]
        return replace(found, items=tuple(named))

    def close(self) -> None:
        """Free the runners."""
        with self.placement.lock:
            self.explainer.close()
            for encoder in self.encoders.values():
                encoder.close()
            self.runner.close()


def open_model(
    folder: Path, *, threads: int, verified: bool = False, rest: Callable[[], None] = lambda: None
) -> SequenceModel:
    """Open and verify a bundle and load its graph; `BundleError` says what is wrong with it.

    `verified` and `rest` as in `open_bundle`.
    """
    bundle = open_bundle(folder, verified=verified, rest=rest)
    runner = open_onnx(bundle.sequence_path, bundle.sequence_spec, threads=threads)
    model = SequenceModel(bundle, runner, threads=threads)
    model.bind()
    return model


def _has_filters(request: RowRequest) -> bool:
    return (
        request.allowed is not None or request.categories is not None or not request.only_available
    )


def assemble(requests: Sequence[RowRequest]) -> dict[str, AnyArray]:
    """Return the graph's inputs for a batch, padded to its longest history and exclusion."""
    history_BL, length_B = pad([request.history for request in requests])
    excluded_BE, _ = pad([request.excluded for request in requests])
    return {
        "history": history_BL,
        "length": length_B,
        "excluded": excluded_BE,
        "bias_row": np.zeros(len(requests), np.int64),  # line 0: what is available
        "k": np.array([max(request.k for request in requests)], np.int64),
    }


def pad(lists: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the lists as one array [B, max(1, longest)], zeros on the right, and lengths [B]."""
    lengths = list(map(len, lists))
    longest = max(lengths)
    length_B = np.array(lengths, np.int64)
    if min(lengths) == longest > 0:
        return np.array(lists, np.int64), length_B
    padded = np.zeros((len(lists), max(1, longest)), np.int64)
    everything: Iterable[int] = chain.from_iterable(lists)
    padded[np.arange(padded.shape[1]) < length_B[:, None]] = np.fromiter(
        everything, np.int64, sum(lengths)
    )
    return padded, length_B


def split(
    requests: Sequence[RowRequest],
    rows_BK: npt.NDArray[np.int64],
    scores_BK: npt.NDArray[np.float32],
) -> list[RowAnswer]:
    """Cut each request's answer to its k and to what is eligible (scores above -inf)."""
    answers = []
    for request, rows, scores in zip(requests, rows_BK.tolist(), scores_BK.tolist(), strict=True):
        kept = request.k
        if scores[kept - 1] == -math.inf:  # fewer are eligible: the rest is at the end
            kept = scores.index(-math.inf)
        answers.append(RowAnswer(rows[:kept], scores[:kept]))
    return answers
