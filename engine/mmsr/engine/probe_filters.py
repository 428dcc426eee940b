"""Asks the probe's users again with exclusions of differing length, and for other K.

The right answers follow from PyTorch's stored states: state @ item_outputs is every row's score.
"""

# F users of one call, C bound rows, K results asked for

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsr.engine.items import bound_rows, rows_outside
from mmsr.engine.model import RowRequest, assemble
from mmsr.engine.probe_answers import ask, count_right, distance, misordered, spread
from mmsr.engine.probe_set import Floats, ProbeSet, Rows
from mmsr.engine.runners.base import AnyArray, Runner

USERS = 128  # an eighth of the probe set: this pass ranks the whole catalogue in numpy
KS = (7, 100, 1, 40)  # of one call each: less and more than the K of the stored answers
STEPS = 3  # of the best: none of them excluded, every one, every second
MANY = 1000  # rows of which every third user is denied


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
    """Ask with each user's history excluded, some of the best rows and many at random.

    The tables are bound, the output vectors by `bind_rows`.
    """
    users = spread(probe.length_P, USERS)
    parts = []
    for number, k in enumerate(KS):
        some = users[number :: len(KS)]
        if len(some):
            inputs = filtered_inputs(probe, some, min(k, items), items)
            scores_FC = _allowed_scores(probe, some, item_outputs_CD[: bound_rows(items)], inputs)
            rows_FK, found_FK, _ = ask(runner, inputs)
            scale_F = _scale(probe, some)
            parts.append(_compare((rows_FK, found_FK), scores_FC, scale_F, tolerance))
    right, wanted, error, unordered = np.array(parts).T
    return FilterReport(
        users=len(users),
        overlap=float(right.sum() / wanted.sum()) if wanted.any() else 1.0,
        max_error=float(error.max()),
        misordered=int(unordered.sum()),
    )


def filtered_inputs(probe: ProbeSet, users: Rows, k: int, items: int) -> dict[str, AnyArray]:
    """Return the graph's inputs for some users; what is excluded differs in length."""
    random = np.random.default_rng(0)
    outside, requests = rows_outside(items), []
    for number, user in enumerate(users.tolist()):
        history = probe.history_PL[user, : probe.length_P[user]].tolist()
        step = number % STEPS
        best = probe.top_rows_PK[user, ::step].tolist() if step else []
        many = random.integers(1, items + 1, MANY).tolist() if not step else []
        requests.append(RowRequest(history, [*outside, *history, *best, *many], k))
    inputs = assemble(requests)  # pads with row 0, which is outside
    return {**inputs, "k": np.array([min(k, bound_rows(items))], np.int64)}


def _allowed_scores(
    probe: ProbeSet, users: Rows, outputs_CD: Floats, inputs: dict[str, AnyArray]
) -> Floats:
    """Return every row's score [F, C], -inf where the filters bar it."""
    scores_FC: Floats = probe.state_PD[users] @ outputs_CD.T
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
