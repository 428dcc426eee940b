"""A catalogue of any size from a bundle's own: its rows drawn again and again. Never served."""

# N items, C rows of the tables (row 0 is padding)

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsr.engine.items import bound_rows
from mmsr.engine.model import RowRequest, SequenceModel, assemble
from mmsr.engine.probe_answers import outside
from mmsr.engine.quantise import bind_outputs
from mmsr.engine.runners.base import AnyArray

JITTER = 1e-3  # of a value, so that no two rows have equal scores, which would ease the top K

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A model and the catalogue that its runner has bound."""

    model: SequenceModel
    items: int | None  # None: the bundle's own

    def inputs(self, requests: Sequence[RowRequest]) -> dict[str, AnyArray]:
        """Return the inputs of the graph."""
        if self.items is None:
            return self.model.inputs(requests, max(request.k for request in requests))
        inputs = assemble(requests)
        beyond = outside(len(requests), self.items)
        return {**inputs, "excluded": np.concatenate([inputs["excluded"], beyond], axis=1)}

    def rows(self, places: Rows) -> Rows:
        """Return the rows that the graph's answer means."""
        return self.model.scored.rows(places) if self.items is None else places


def bind_items(model: SequenceModel, items: int | None, seed: int) -> Asked:
    """Give the runner tables of `items` rows; None: the bundle's own again."""
    asked = Asked(model=model, items=items)
    if items is None:
        model.bind()
        return asked
    random = np.random.default_rng(seed)
    capacity = bound_rows(items)
    rows_C = np.zeros(capacity, np.int64)
    rows_C[1 : items + 1] = random.integers(1, len(model.bundle.catalogue) + 1, items)
    model.runner.bind("item_inputs", model.bundle.item_inputs_CW[rows_C])
    outputs_CD = model.bundle.item_outputs_CD[rows_C]
    outputs_CD *= random.uniform(1 - JITTER, 1 + JITTER, (capacity, 1)).astype(np.float32)
    bind_outputs(model.runner, outputs_CD)
    return asked
