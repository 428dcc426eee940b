"""One bundle, ready to compute: lists of rows in, the best rows and their scores out.

Knows the sequence graph and its tables. Knows nothing of item ids, waiting or gRPC.
"""

# B requests in the batch, L longest history, E longest exclusion, K most results asked for,
# N items in the catalogue

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmsr.engine.catalogue.named_filters import NamedFilters
from mmsr.engine.catalogue.placement import Placement
from mmsr.engine.encoders import open_encoders
from mmsr.engine.explain import Explainer, Explanation, open_explain
from mmsr.engine.filters import RowFilters
from mmsr.engine.opened import OpenedBundle, open_bundle
from mmsr.engine.plan import Plan, plan
from mmsr.engine.rows import CategoryFilter, RowAnswer, RowRequest
from mmsr.engine.runners.base import AnyArray, Runner
from mmsr.engine.runners.onnx import open_onnx
from mmsr.engine.scored import ScoredRows, best

__all__ = ["CategoryFilter", "RowAnswer", "RowRequest", "SequenceModel", "open_model"]


class SequenceModel:
    """A verified bundle and the runner that computes its sequence graph.

    `threads` share one operator of the graphs that are loaded when they are first used: explain and
    the encoders. One thread calls its methods; `filters` others may read, holding `placement.lock`:
    `named` does.
    """

    def __init__(self, bundle: OpenedBundle, runner: Runner, *, threads: int = 1) -> None:
        self.bundle = bundle
        self.runner = runner
        self.filters = RowFilters(bundle.catalogue, bundle.manifest.tables.capacity)
        self.placement = Placement()  # requests and answers speak of numbers, see there
        self.named = NamedFilters(self.filters, self.placement)
        self.scored = ScoredRows(bundle, runner)
        open_explainer = partial(open_explain, bundle, threads)
        self.explainer = Explainer(bundle, open_explainer, self.placement)
        self.encoders = open_encoders(bundle, threads)
        self.version = bundle.manifest.bundle_id
        self.max_length = bundle.manifest.max_length

    def bind(self) -> None:
        """Hand the tables to the runner; again, where somebody has bound others."""
        self.runner.bind("item_inputs", self.bundle.item_inputs_CW)
        self.scored.rebind()

    def set_available(self, row: int, available: bool) -> None:
        """Switch whether an item may come back; between batches."""
        self.filters.set_available(row, available)
        self.scored.move(
            row,
            present=bool(self.filters.present_C[row]),
            available=bool(self.filters.available_C[row]),
        )

    def recommend(self, requests: Sequence[RowRequest]) -> list[RowAnswer]:
        """Answer a batch; each answer is the same as if its request came alone."""
        return self.placement.named(self._recommend(self.placement.placed(requests)))

    def _recommend(self, requests: Sequence[RowRequest]) -> list[RowAnswer]:
        plans = [plan(request, self.filters, len(requests)) for request in requests]
        answers: dict[int, RowAnswer] = {}
        for only_available in (True, False):
            places = [p for p, r in enumerate(requests) if r.only_available == only_available]
            if places:
                some, how = [requests[p] for p in places], [plans[p] for p in places]
                answers.update(zip(places, self._answers(some, how), strict=True))
        return [answers[place] for place in range(len(requests))]

    def _answers(self, requests: list[RowRequest], plans: list[Plan]) -> list[RowAnswer]:
        """Answer requests that are alike in whether unavailable items may come back."""
        inputs = self.inputs(requests, max(how.fetched for how in plans))
        outputs = self.runner.run(inputs)
        rows_BK = self.scored.rows(outputs["rows"])
        if not any(how.checked or not how.fetched for how in plans):
            return split(requests, rows_BK, outputs["scores"])
        lines = zip(requests, plans, rows_BK, outputs["scores"], outputs["states"], strict=True)
        return [self._answer(*line) for line in lines]

    def inputs(self, requests: Sequence[RowRequest], fetched: int) -> dict[str, AnyArray]:
        """Bind the output vectors that may come back; return the other inputs of the graph.

        `fetched` rows of each request, of which nothing but the exclusions are barred; 0: the
        states alone. Places come out, `scored.rows` has their rows.
        """
        inputs = assemble(requests)
        if not fetched:  # any rows will do: they are not read
            self.scored.bind(0)
            inputs["excluded"] = np.zeros((len(requests), 1), np.int64)
            return {**inputs, "k": np.ones(1, np.int64)}
        only_available = requests[0].only_available
        count = self.scored.available if only_available else self.scored.present
        bound = self.scored.bind(count)
        inputs["excluded"] = self.scored.excluded(inputs["excluded"], count, bound)
        return {**inputs, "k": np.array([min(fetched, bound)], np.int64)}

    def _answer(
        self,
        request: RowRequest,
        how: Plan,
        rows_K: npt.NDArray[np.int64],
        scores_K: npt.NDArray[np.float32],
        state_D: npt.NDArray[np.float32],
    ) -> RowAnswer:
        if how.fetched:
            kept = scores_K > -np.inf
            if how.checked:
                kept &= self.filters.passing(request, rows_K)
            places = np.flatnonzero(kept)[: request.k]
            everything_came = scores_K[-1] == -np.inf
            if len(places) == request.k or everything_came or not how.checked:
                return RowAnswer(rows_K[places].tolist(), scores_K[places].tolist())
        return self._alone(request, state_D)

    def _alone(self, request: RowRequest, state_D: npt.NDArray[np.float32]) -> RowAnswer:
        """Score the rows that pass the filters, and no other."""
        rows_n = self.filters.candidates(request)
        scores_n = self.scored.scores(state_D, rows_n)
        barred = set(request.excluded)
        places = best(scores_n, request.k + len(barred))
        rows = rows_n[places].tolist()
        kept = [place for place, row in enumerate(rows) if row not in barred][: request.k]
        return RowAnswer([rows[p] for p in kept], scores_n[places[kept]].tolist())

    def explain(self, history: Sequence[int], rows: Sequence[int]) -> Explanation:
        """Say what the scores of `rows` hang on; see `Explainer.explain`."""
        return self.explainer.explain(history, rows)

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


def assemble(requests: Sequence[RowRequest]) -> dict[str, AnyArray]:
    """Return the graph's inputs for a batch, padded to its longest history and exclusion.

    What is excluded are rows, as they lie in the bundle's table.
    """
    history_BL, length_B = pad([request.history for request in requests])
    excluded_BE, _ = pad([request.excluded for request in requests])
    return {
        "history": history_BL,
        "length": length_B,
        "excluded": excluded_BE,
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
        kept = min(request.k, len(scores))  # fewer rows are bound than were asked for
        if scores[kept - 1] == -math.inf:  # fewer are eligible: the rest is at the end
            kept = scores.index(-math.inf)
        answers.append(RowAnswer(rows[:kept], scores[:kept]))
    return answers
