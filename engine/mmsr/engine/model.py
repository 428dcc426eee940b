"""One bundle, ready to compute: lists of rows in, the best rows and their scores out.

Knows the sequence graph and its tables. Knows nothing of item ids, waiting or gRPC.
"""

# B requests in the batch, L longest history, E longest exclusion, K most rows fetched,
# S requests that are answered alone, n rows that pass their filters

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmsr.bundle.tables import writable
from mmsr.engine.catalogue.named_filters import NamedFilters
from mmsr.engine.catalogue.placement import Placement
from mmsr.engine.config import RunnerName
from mmsr.engine.encoders import Encoder, open_encoders
from mmsr.engine.explain import Explainer, Explanation, open_explain
from mmsr.engine.filters import RowFilters
from mmsr.engine.opened import ITEM_INPUTS, OpenedBundle, open_bundle
from mmsr.engine.plan import Plan, plan
from mmsr.engine.precision import precision_of
from mmsr.engine.rows import CategoryFilter, ItemRow, RowAnswer, RowRequest
from mmsr.engine.runners.base import AnyArray, Runner, as_input
from mmsr.engine.runners.choose import SEQUENCE, Runners
from mmsr.engine.scored import ScoredRows, best

__all__ = [
    "CategoryFilter",
    "ItemRow",
    "RowAnswer",
    "RowRequest",
    "SequenceModel",
    "open_model",
]

MOST_SCORES = 1 << 22  # 16 MiB of scores of requests that are answered alone


class SequenceModel:
    """A verified bundle and the runner that computes its sequence graph.

    `threads` share one operator of the explain graph, which is loaded when it is first used. One
    thread calls its methods; `filters` others may read, holding `placement.lock`: `named` does.
    """

    def __init__(self, bundle: OpenedBundle, runner: Runner, *, threads: int = 1) -> None:
        self.bundle = bundle
        self.runner = runner
        self.filters = RowFilters(bundle.catalogue, bundle.manifest.tables.capacity)
        self.placement = Placement()  # requests and answers speak of numbers, see there
        self.named = NamedFilters(self.filters, self.placement)
        self.scored = ScoredRows(bundle, runner)
        [spec] = [tensor for tensor in runner.spec.inputs if tensor.name == "item_inputs"]
        self._inputs_CW = as_input(spec, writable(bundle.folder / ITEM_INPUTS))
        open_explainer = partial(open_explain, bundle, threads)
        self.explainer = Explainer(bundle, open_explainer, self.placement)
        self.encoders: dict[str, Encoder] = {}
        self.on_device = False  # whether the runner computes elsewhere than on the CPU
        self.precision = precision_of(bundle.manifest)  # that the runner computes in
        self.version = bundle.manifest.bundle_id
        self.max_length = bundle.manifest.max_length

    def bind(self) -> None:
        """Hand the tables to the runner; again, where somebody has bound others."""
        self.runner.bind("item_inputs", self._inputs_CW)
        self.scored.rebind()

    def write_item(self, row: int, item: ItemRow) -> None:
        """Put an item into a row that holds none, between batches.

        `ValueError` for another row: what a running batch may read is never overwritten.
        """
        if not 1 <= row < len(self._inputs_CW) or self.filters.present_C[row]:
            raise ValueError(f"row {row} holds an item or is none; expected a spare row")
        self._inputs_CW[row] = item.inputs_W
        self.runner.write_rows("item_inputs", [row], self._inputs_CW[[row]])
        self.scored.write(row, item.outputs_D)
        self.filters.write_item(
            row, item.categories, available=item.available, popularity=item.popularity
        )
        self._take_side(row)

    def set_available(self, row: int, available: bool) -> None:
        """Switch whether an item may come back, between batches."""
        self.filters.set_available(row, available)
        self._take_side(row)

    def remove_item(self, row: int) -> None:
        """Let an item never come back, between batches; its row is spare again."""
        self.filters.remove_item(row)
        self._take_side(row)

    def _take_side(self, row: int) -> None:
        present, available = self.filters.present_C[row], self.filters.available_C[row]
        self.scored.move(row, present=bool(present), available=bool(available))

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
        found = [
            self._checked(*line)
            for line in zip(requests, plans, rows_BK, outputs["scores"], strict=True)
        ]
        left = [place for place, answer in enumerate(found) if answer is None]
        alone = iter(self._alone([requests[place] for place in left], outputs["states"][left]))
        return [next(alone) if answer is None else answer for answer in found]

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

    def _checked(
        self,
        request: RowRequest,
        how: Plan,
        rows_K: npt.NDArray[np.int64],
        scores_K: npt.NDArray[np.float32],
    ) -> RowAnswer | None:
        """Drop what the filters bar; None where more may pass than came."""
        if not how.fetched:
            return None
        kept = scores_K > -np.inf
        if how.checked:
            kept &= self.filters.passing(request, rows_K)
        places = np.flatnonzero(kept)[: request.k]
        everything_came = scores_K[-1] == -np.inf
        if how.checked and len(places) < request.k and not everything_came:
            return None
        return RowAnswer(rows_K[places].tolist(), scores_K[places].tolist())

    def _alone(
        self, requests: list[RowRequest], states_SD: npt.NDArray[np.float32]
    ) -> list[RowAnswer]:
        """Score the rows that pass the filters, and no other; gathered once for equal filters."""
        groups: dict[object, list[int]] = {}
        for place, request in enumerate(requests):
            shared = request.allowed is None
            groups.setdefault(request.categories if shared else place, []).append(place)
        answers: dict[int, RowAnswer] = {}
        for group in groups.values():
            rows_n = self.filters.candidates(requests[group[0]])
            at_once = max(1, MOST_SCORES // max(1, len(rows_n)))
            for begin in range(0, len(group), at_once):
                places = group[begin : begin + at_once]
                scores_Sn = self.scored.scores(states_SD[places], rows_n)
                for place, scores_n in zip(places, scores_Sn, strict=True):
                    answers[place] = _pick(requests[place], rows_n, scores_n)
        return [answers[place] for place in range(len(requests))]

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
    folder: Path,
    *,
    threads: int,
    runner: RunnerName = "cpu",
    verified: bool = False,
    rest: Callable[[], None] = lambda: None,
) -> SequenceModel:
    """Open and verify a bundle and load its graph.

    `BundleError` says what is wrong with it, `ConfigError` that the runner is not to be had.
    `verified` and `rest` as in `open_bundle`.
    """
    bundle = open_bundle(folder, verified=verified, rest=rest)
    runners = Runners(wanted=runner, threads=threads)
    opened = runners.open(bundle, SEQUENCE)
    model = SequenceModel(bundle, opened.runner, threads=threads)
    model.precision, model.on_device = opened.precision, opened.on_device
    model.encoders = open_encoders(bundle, runners)
    model.bind()
    return model


def _pick(
    request: RowRequest, rows_n: npt.NDArray[np.int64], scores_n: npt.NDArray[np.float32]
) -> RowAnswer:
    """Return the best k of some rows, without the excluded ones."""
    barred = set(request.excluded)
    places = best(scores_n, request.k + len(barred))
    rows = rows_n[places].tolist()
    kept = [place for place, row in enumerate(rows) if row not in barred][: request.k]
    return RowAnswer([rows[p] for p in kept], scores_n[places[kept]].tolist())


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
