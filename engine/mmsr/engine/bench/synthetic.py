"""A catalogue of any size from a bundle's own: its rows drawn again and again. Never served."""

# N items, C rows of the tables (row 0 is padding)

import numpy as np

from mmsr.engine.items import eligibility
from mmsr.engine.model import SequenceModel
from mmsr.engine.quantise import bind_outputs

JITTER = 1e-3  # of a value, so that no two rows have equal scores, which would ease the top K


def bind_items(model: SequenceModel, items: int | None, seed: int) -> None:
    """Give the runner tables of `items` rows; None: the bundle's own again."""
    if items is None:
        model.bind()
        return
    random = np.random.default_rng(seed)
    rows_C = np.append(0, random.integers(1, len(model.bundle.catalogue) + 1, items))
    model.runner.bind("item_inputs", model.bundle.item_inputs_CW[rows_C])
    outputs_CD = model.bundle.item_outputs_CD[rows_C]
    outputs_CD *= random.uniform(1 - JITTER, 1 + JITTER, (items + 1, 1)).astype(np.float32)
    bind_outputs(model.runner, outputs_CD)
    model.runner.bind("bias", eligibility(np.ones(items, np.bool_), items + 1))
