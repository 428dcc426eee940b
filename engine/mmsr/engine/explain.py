"""Why an item has its score: what changes when one history item, or one source, is left out.

One request becomes one batch of the bundle's second graph: as it is, without each item of its
history, without each source. The graph is loaded when it is first used. Knows rows, nothing of
item ids or gRPC.
"""

# B variants of one request, L history length, M items asked about, S sources

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsr.engine.catalogue.placement import NOWHERE, Placement
from mmsr.engine.errors import NotExplainable
from mmsr.engine.opened import OpenedBundle
from mmsr.engine.runners.base import AnyArray, Runner
from mmsr.engine.runners.onnx import open_onnx


@dataclass(frozen=True, kw_only=True)
class ItemReasons:
    """What one item's score hangs on. A change is the score without, less the score with all.

    Below 0: what was left out speaks for the item.
    """

    row: int
    score: float  # as `SequenceModel.recommend` gives it
    # One a history item, as if it had not been bought, and nothing older were read in its place;
    # none where the history has one item: without it there is nothing to answer to.
    history_changes: tuple[float, ...]
    source_changes: Mapping[str, float]  # by source, its attention left out of every block


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Of one request."""

    # Of the last block at the last item, mean over the heads: one a history item, sums to 1. Where
    # the model looks, not what the score hangs on.
    attention: tuple[float, ...]
    items: tuple[ItemReasons, ...]  # as they were asked for, without those that are removed


class Explainer:
    """The explain graph of an opened bundle, loaded by the first call; one call at a time.

    With a `placement`, asked and answering in its numbers; else in rows.
    """

    def __init__(
        self,
        bundle: OpenedBundle,
        open_runner: Callable[[], Runner],
        placement: Placement | None = None,
    ) -> None:
        self._placement = placement or Placement()
        self.sources = bundle.sources  # in the order of the graph's switches
        self._bundle = bundle
        self._open_runner = open_runner  # loads the graph and binds the tables
        self._runner: Runner | None = None

    @property
    def loaded(self) -> bool:
        """Tell whether the graph is in memory."""
        return self._runner is not None

    def runner(self) -> Runner:
        """Return the graph's runner, loaded now if it is not yet.

        `NotExplainable` if the bundle has no such graph, `BundleError` if it cannot be loaded.
        """
        if self._runner is None:
            self.require()
            self._runner = self._open_runner()
        return self._runner

    def require(self) -> None:
        """Raise `NotExplainable` if the bundle has no such graph; loads nothing."""
        if self._bundle.explain_spec is None:
            raise NotExplainable(
                f"bundle {self._bundle.manifest.bundle_id} was exported without explain.onnx; "
                "export the model again"
            )

    def explain(self, history: Sequence[int], rows: Sequence[int]) -> Explanation:
        """Say what the scores of `rows` hang on.

        `history`: rows, oldest first, 1 to max_length of them; `rows`: any, and none for the
        attention alone. Raises what `runner` raises. Its batch is 1 + len(history) + len(sources)
        requests, each of which scores all `rows`.
        """
        place = self._placement.rows
        # One that was removed while the question waited has no score: its row is the padding.
        there = [row for row in rows if self._placement.row(row) != NOWHERE]
        asked = there or history[-1:]  # the graph wants a candidate
        outputs = self.runner().run(assemble(place(history), place(asked), len(self.sources)))
        return read(history, there, self.sources, outputs)

    def close(self) -> None:
        """Free the runner; the next call loads it again."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None


def open_explain(bundle: OpenedBundle, threads: int) -> Runner:
    """Load the explain graph of a bundle that has one; it reads the tables in place.

    `BundleError` if it cannot be loaded.
    """
    spec = bundle.explain_spec
    assert spec is not None
    runner = open_onnx(bundle.folder / spec.file, spec, threads=threads)
    runner.bind("item_inputs", bundle.item_inputs_CW)
    runner.bind("item_outputs", bundle.item_outputs_CD)
    return runner


def assemble(history: Sequence[int], rows: Sequence[int], sources: int) -> dict[str, AnyArray]:
    """Return the graph's inputs: everything, then without each item, then without each source.

    A history of one item has no variant without it.
    """
    items = _left_out_items(history)
    count = 1 + items + sources
    history_BL = np.tile(np.array(history, np.int64), (count, 1))
    length_B = np.full(count, len(history), np.int64)
    for place in range(items):
        history_BL[1 + place] = [*history[:place], *history[place + 1 :], 0]
        length_B[1 + place] -= 1
    switches_BS = np.ones((count, sources), np.float32)
    switches_BS[1 + items :][np.diag_indices(sources)] = 0.0
    return {
        "history": history_BL,
        "length": length_B,
        "candidates": np.tile(np.array(rows, np.int64), (count, 1)),
        "switches": switches_BS,
    }


def read(
    history: Sequence[int],
    rows: Sequence[int],
    sources: Sequence[str],
    outputs: Mapping[str, npt.NDArray[np.float32]],
) -> Explanation:
    """Return what the graph's answer to `assemble` says of `rows`, which come first in it."""
    items = _left_out_items(history)
    scores_BM = outputs["scores"][:, : len(rows)].astype(np.float64)
    change_BM = scores_BM[1:] - scores_BM[0]
    of_items = change_BM[:items].T.tolist()
    of_sources = change_BM[items:].T.tolist()
    return Explanation(
        attention=tuple(outputs["attention"][0].tolist()),
        items=tuple(
            ItemReasons(
                row=row,
                score=score,
                history_changes=tuple(by_item),
                source_changes=dict(zip(sources, by_source, strict=True)),
            )
            for row, score, by_item, by_source in zip(
                rows, scores_BM[0].tolist(), of_items, of_sources, strict=True
            )
        ),
    )


def _left_out_items(history: Sequence[int]) -> int:
    """Return how many items can be left out one by one: nothing answers to an empty history."""
    return len(history) if len(history) > 1 else 0
