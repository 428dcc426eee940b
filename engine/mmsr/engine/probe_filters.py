"""Asks the probe's users again with filters: exclusions, eligibility lines and other K.

The right answers follow from PyTorch's stored states: state @ item_outputs is every row's score.
"""

# F users of one call, C table rows, S eligibility lines, K results asked for

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsr.engine.items import eligibility
from mmsr.engine.model import RowRequest, assemble
from mmsr.engine.probe_answers import ask, count_right, distance, misordered, spread
from mmsr.engine.probe_set import Floats, ProbeSet, Rows
from mmsr.engine.runners.base import AnyArray, Runner

USERS = 128  # an eighth of the probe set: this pass ranks the whole catalogue in numpy
KS = (7, 100, 1, 40)  # of one call each: less and more than the K of the stored answers
LINES = 3  # eligibility lines: everything, and twice without a half of the items


@dataclass(frozen=True, kw_only=True)
class FilterReport:
    """How near the filtered answers are to those that follow from PyTorch's states."""

    users: int
    overlap: float  # share of the places that hold a right item, ties within the tolerance allowed
    max_error: float  # of a score, relative; infinite where a barred row has one
    misordered: int  # places


def probe_filters(
    runner: Runner, probe: ProbeSet, item_outputs_CD: Floats, items: int, tolerance: float
) -> FilterReport:
    """Ask with each user's history and best item excluded, and half of the items barred.

    The tables are bound; the bias is left bound to this comparison's own lines.
    """
    bias_SC = bias_lines(items, len(item_outputs_CD))
    runner.bind("bias", bias_SC)
    users = spread(probe.length_P, USERS)
    parts = []
    for number, k in enumerate(KS):
        some = users[number :: len(KS)]
        if len(some):
            inputs = filtered_inputs(probe, some, min(k, items))
            scores_FC = _allowed_scores(probe, some, item_outputs_CD, bias_SC, inputs)
            parts.append(_compare(ask(runner, inputs), scores_FC, _scale(probe, some), tolerance))
    right, wanted, error, unordered = np.array(parts).T
    return FilterReport(
        users=len(users),
        overlap=float(right.sum() / wanted.sum()) if wanted.any() else 1.0,
        max_error=float(error.max()),
        misordered=int(unordered.sum()),
    )


def bias_lines(items: int, capacity: int) -> Floats:
    """Return S lines of the graph's bias: all items; without the odd rows; without the even."""
    rows_N = np.arange(1, items + 1)
    lines = [np.ones(items, np.bool_), rows_N % 2 == 0, rows_N % 2 == 1]
    return np.concatenate([eligibility(eligible_N, capacity) for eligible_N in lines])


def filtered_inputs(probe: ProbeSet, users: Rows, k: int) -> dict[str, AnyArray]:
    """Return the graph's inputs for some users; what is excluded differs in length."""
    requests = []
    for user in users.tolist():
        history = probe.history_PL[user, : probe.length_P[user]].tolist()
        requests.append(RowRequest(history, [*history, int(probe.top_rows_PK[user, 0])], k))
    return {**assemble(requests), "bias_row": np.arange(len(users)) % LINES}


def _allowed_scores(
    probe: ProbeSet,
    users: Rows,
    item_outputs_CD: Floats,
    bias_SC: Floats,
    inputs: dict[str, AnyArray],
) -> Floats:
    """Return every row's score [F, C], -inf where the filters bar it."""
    scores_FC: Floats = probe.state_PD[users] @ item_outputs_CD.T
    scores_FC += bias_SC[inputs["bias_row"]]
    np.put_along_axis(scores_FC, inputs["excluded"], np.float32(-np.inf), axis=1)
    return scores_FC


def _scale(probe: ProbeSet, users: Rows) -> Floats:
    scale_F: Floats = np.maximum(1.0, np.abs(probe.top_scores_PK[users]).max(axis=1))
    return scale_F


def _compare(
    answer: tuple[Rows, Floats], scores_FC: Floats, scale_F: Floats, tolerance: float
) -> tuple[int, int, float, int]:
    """Return right places, places to be filled, largest relative error, misordered places."""
    rows_FK, found_FK = answer
    k = rows_FK.shape[1]
    best_FK = -np.sort(-np.partition(scores_FC, -k, axis=1)[:, -k:], axis=1)
    wanted_F = (best_FK > -np.inf).sum(axis=1)
    last_F = np.maximum(wanted_F, 1) - 1
    least_F = np.take_along_axis(best_FK, last_F[:, None], axis=1)[:, 0] - tolerance * scale_F
    reference_FK = _at(scores_FC, rows_FK)
    right_FK = (found_FK > -np.inf) & (reference_FK > -np.inf)
    right_FK &= reference_FK >= least_F[:, None]
    right = int(count_right(rows_FK, right_FK).sum())
    error = float((distance(found_FK, reference_FK) / scale_F).max())
    return right, int(wanted_F.sum()), error, misordered(found_FK)


def _at(scores_FC: Floats, rows_FK: Rows) -> npt.NDArray[np.float32]:
    """Return the scores of the returned rows; -inf for what is no row of the table."""
    is_row_FK = (rows_FK >= 0) & (rows_FK < scores_FC.shape[1])
    found_FK = np.take_along_axis(scores_FC, np.where(is_row_FK, rows_FK, 0), axis=1)
    return np.where(is_row_FK, found_FK, np.float32(-np.inf))
