"""What the comparisons of the probe share: asking a runner, and measuring its answers.

Knows neither torch nor where the right answers come from.
"""

# P users of one call, K results

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mmsr.engine.errors import ProbeFailed
from mmsr.engine.items import bound_rows, rows_outside
from mmsr.engine.probe_set import Floats, Rows
from mmsr.engine.runners.base import AnyArray, Runner


def bind_rows(
    runner: Runner, outputs_CD: Floats, items: int, codes: Mapping[str, AnyArray]
) -> None:
    """Bind a bundle's output vectors in catalogue order; `outside` must then be excluded."""
    runner.bind("item_outputs", outputs_CD[: bound_rows(items)])
    for name, array in codes.items():
        runner.bind(name, array)


def outside(users: int, items: int) -> Rows:
    """Return for each user the rows that are bound and no item."""
    return np.tile(np.array(rows_outside(items), np.int64), (users, 1))


def ask(runner: Runner, inputs: Mapping[str, AnyArray]) -> tuple[Rows, Floats, Floats]:
    """Return rows and scores [P, K] and the states [P, D].

    `ProbeFailed` unless there are K rows and scores for every user.
    """
    outputs = runner.run(inputs)
    rows_PK, scores_PK = outputs["rows"], outputs["scores"]
    wanted = (len(inputs["length"]), int(inputs["k"][0]))
    if rows_PK.shape != wanted or scores_PK.shape != wanted:
        raise ProbeFailed(
            f"{runner.name} returns rows {list(rows_PK.shape)} and scores {list(scores_PK.shape)} "
            f"where {wanted[0]} users ask for {wanted[1]} each; export the model again"
        )
    return rows_PK, scores_PK, outputs["states"]


def distance(a_PK: Floats, b_PK: Floats) -> Floats:
    """Return each user's largest difference; NaN or infinite where either alone is."""
    with np.errstate(invalid="ignore"):
        difference_PK = np.where(a_PK == b_PK, 0.0, np.abs(a_PK - b_PK))
    largest: Floats = difference_PK.max(axis=1)
    return largest


def misordered(scores_PK: Floats) -> int:
    """Count the places whose score is not at most that of the place before; NaN is not."""
    return int(np.count_nonzero(~(scores_PK[:, :-1] >= scores_PK[:, 1:])))


def count_right(rows_PK: Rows, right_PK: npt.NDArray[np.bool_]) -> Rows:
    """Count each user's distinct right rows: the best item returned K times is right once."""
    counts = [len(set(rows[right].tolist())) for rows, right in zip(rows_PK, right_PK, strict=True)]
    return np.array(counts, np.int64)


def spread(length_P: Rows, most: int) -> Rows:
    """Return up to `most` users, spread from the shortest history to the longest."""
    by_length = np.argsort(length_P, kind="stable")
    places = np.linspace(0, len(by_length) - 1, min(most, len(by_length)))
    return by_length[places.astype(np.int64)]
