"""Compares a runner with PyTorch's answers on the probe set, in numbers and in recommender terms.

Used before a bundle is served, by `mmsr-repo verify` and by export's gate. Knows no torch: the
answers to compare with were stored at export.
"""

# P probe users, L longest probe history, K results compared, D output columns, C table rows

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmsr.engine.errors import ProbeFailed
from mmsr.engine.model import SequenceModel, open_model
from mmsr.engine.precision import FP32, FP32_TOLERANCE, limits_of
from mmsr.engine.probe_answers import (
    ask,
    bind_rows,
    count_right,
    distance,
    misordered,
    outside,
    spread,
)
from mmsr.engine.probe_filters import FilterReport, probe_filters
from mmsr.engine.probe_set import Floats, ProbeSet, Rows, load_probe
from mmsr.engine.runners.base import Runner

BATCH = 64  # users a call
ALONE = 16  # users that are also computed one by one
NDCG_AT = 10


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """How near a runner's answers are to PyTorch's. Errors are relative to max(1, top score)."""

    runner: str
    precision: str = FP32  # of the graph: says what is allowed
    users: int
    k: int
    overlap: float  # share of returned items that are right, ties within the tolerance allowed
    worst_overlap: float  # of one user
    max_abs_error: float  # of a score
    max_error: float  # the same, relative
    alone_error: float  # computed alone against in a batch, relative
    padding_error: float  # padded further against not, relative
    state_error: float  # of an entry of a state, relative to the user's largest
    table_error: float  # of PyTorch's own best scores, computed anew from the bundle's table
    ndcg: float  # NDCG@10 of the targets, by the runner
    ndcg_reference: float  # the same, by PyTorch
    ndcg_error: float  # their difference as far as ties within the tolerance do not explain it
    misordered: int  # places that score higher than the place before
    filtered: FilterReport  # the same with exclusions, barred items and other k

    def check(self) -> None:
        """Raise `ProbeFailed`, which says what differs and by how much."""
        limits = limits_of(self.precision)
        problems = [
            f"{what} {value:.6f}, at least {limits.overlap:g} expected"
            for what, value in (
                (f"overlap@{self.k}", self.overlap),
                ("overlap with filters", self.filtered.overlap),
            )
            if not value >= limits.overlap
        ]
        problems += [
            f"{what} {value:.3g}, at most {most:g} allowed"
            for what, value, most in (
                ("score error", self.max_error, limits.score_error),
                ("score error with filters", self.filtered.max_error, limits.score_error),
                ("state error", self.state_error, limits.state_error),
                ("alone against batched", self.alone_error, limits.form_error),
                ("padded against unpadded", self.padding_error, limits.form_error),
                ("output table against PyTorch's scores", self.table_error, FP32_TOLERANCE),
                ("places out of order", self.misordered, 0),
                ("places out of order with filters", self.filtered.misordered, 0),
                (f"NDCG@{NDCG_AT} error", self.ndcg_error, limits.ndcg_error),
            )
            if most is not None and not value <= most  # NaN fails too
        ]
        if problems:
            raise ProbeFailed(
                f"{self.runner} does not answer like PyTorch on {self.users} probe users: "
                f"{'; '.join(problems)}; export the model again"
            )


def run_probe(bundle_folder: Path, *, threads: int = 1) -> ProbeReport:
    """Open a bundle, compute its probe set with ONNX Runtime and compare.

    `BundleError` if the bundle is damaged. The report is returned whatever it says: `check` it.
    """
    model = open_model(bundle_folder, threads=threads)
    try:
        return prove(model)
    finally:
        model.close()


def describe(report: ProbeReport) -> str:
    """Return the report as half a line of text."""
    return (
        f"{report.users} users, overlap@{report.k} {report.overlap:.4f}, with filters "
        f"{report.filtered.overlap:.4f}, largest score error "
        f"{report.max_abs_error:.1e}, NDCG@10 {report.ndcg:.4f} (PyTorch "
        f"{report.ndcg_reference:.4f})"
    )


def prove(model: SequenceModel, users: int | None = None) -> ProbeReport:
    """Compare an open model with PyTorch's answers in its bundle.

    `users`: how many of the probe set are enough; those with the shortest and the longest histories
    are among them. All of them otherwise.
    """
    bundle = model.bundle
    items = bundle.manifest.tables.items
    probe = load_probe(bundle.folder, items)
    if users is not None:
        probe = probe.of(spread(probe.length_P, users))
    try:
        bind_rows(model.runner, bundle.item_outputs_CD, items, bundle.codes)
        found = probe_runner(model.runner, probe, bundle.item_outputs_CD, items)
        return replace(found, precision=model.precision)
    finally:
        model.bind()


def probe_runner(
    runner: Runner, probe: ProbeSet, item_outputs_CD: Floats, items: int, batch: int = BATCH
) -> ProbeReport:
    """Compare a runner whose tables are bound, the output vectors by `bind_rows`.

    `batch`: how many users are asked for together.
    """
    k = min(probe.top_rows_PK.shape[1], items)
    everyone = np.arange(len(probe.length_P))
    ask_for = _Asking(runner, probe, k, items, batch)
    rows_PK, scores_PK, state_PD = ask_for.answers(everyone)
    known_PK = (rows_PK >= 1) & (rows_PK <= items)
    reference_PK = _reference_scores(probe, rows_PK * known_PK, item_outputs_CD)
    scale_P = np.maximum(1.0, np.abs(probe.top_scores_PK[:, :k]).max(axis=1))
    least_P = probe.top_scores_PK[:, k - 1] - FP32_TOLERANCE * scale_P
    right_P = count_right(rows_PK, known_PK & (reference_PK >= least_P[:, None]))
    few = spread(probe.length_P, ALONE)
    alone_fk = np.concatenate([ask_for.answers(few[i : i + 1])[1] for i in range(len(few))])
    wide_fk = ask_for.answers(few, width=probe.history_PL.shape[1])[1]
    error_P = distance(scores_PK, reference_PK)
    return ProbeReport(
        runner=runner.name,
        users=len(everyone),
        k=k,
        overlap=float(right_P.sum() / (len(right_P) * k)),
        worst_overlap=float(right_P.min() / k),
        max_abs_error=float(error_P.max()),
        max_error=float((error_P / scale_P).max()),
        alone_error=float((distance(alone_fk, scores_PK[few]) / scale_P[few]).max()),
        padding_error=float((distance(wide_fk, alone_fk) / scale_P[few]).max()),
        state_error=_state_error(probe, state_PD),
        table_error=_table_error(probe, item_outputs_CD, scale_P),
        ndcg=_ndcg(rows_PK, probe.target_P),
        ndcg_reference=_ndcg(probe.top_rows_PK, probe.target_P),
        ndcg_error=_ndcg_error(rows_PK, probe, item_outputs_CD, 2 * FP32_TOLERANCE * scale_P),
        misordered=misordered(scores_PK),
        filtered=probe_filters(runner, probe, item_outputs_CD, items, FP32_TOLERANCE),
    )


def _table_error(probe: ProbeSet, item_outputs_CD: Floats, scale_P: Floats) -> float:
    """Return how far PyTorch's stored best scores are from state @ table, relative.

    The reference of every other comparison reads the same table: rows that were swapped or come
    from another epoch would agree with themselves.
    """
    again_PK = _reference_scores(probe, probe.top_rows_PK, item_outputs_CD)
    return float((distance(again_PK, probe.top_scores_PK) / scale_P).max())


@dataclass(frozen=True)
class _Asking:
    """Asks a runner for the probe's users, every item eligible."""

    runner: Runner
    probe: ProbeSet
    k: int
    items: int
    batch: int

    def answers(self, users: Rows, width: int | None = None) -> tuple[Rows, Floats, Floats]:
        """Return rows and scores [P, K] and states [P, D], in batches padded to `width`.

        Without one, each batch is padded to its longest history.
        """
        parts = []
        for start in range(0, len(users), self.batch):
            some = users[start : start + self.batch]
            length = self.probe.length_P[some]
            inputs = {
                "history": self.probe.history_PL[some, : width or int(length.max())],
                "length": length,
                "excluded": outside(len(some), self.items),
                "k": np.array([self.k], np.int64),
            }
            parts.append(ask(self.runner, inputs))
        rows_PK, scores_PK, state_PD = (np.concatenate(part) for part in zip(*parts, strict=True))
        return rows_PK, scores_PK, state_PD


def _state_error(probe: ProbeSet, state_PD: Floats) -> float:
    """Return how far the states are from PyTorch's: requests answered alone are scored by them."""
    if state_PD.shape != probe.state_PD.shape:
        return math.inf
    scale_P = np.maximum(1.0, np.abs(probe.state_PD).max(axis=1))
    return float((distance(state_PD, probe.state_PD) / scale_P).max())


def _reference_scores(probe: ProbeSet, rows_PK: Rows, item_outputs_CD: Floats) -> Floats:
    reference: Floats = np.einsum("pd,pkd->pk", probe.state_PD, item_outputs_CD[rows_PK])
    return reference


def _ndcg(rows_PK: Rows, target_P: Rows) -> float:
    return float(_gain(_place(rows_PK, target_P)).mean())


def _ndcg_error(
    rows_PK: Rows, probe: ProbeSet, item_outputs_CD: Floats, tolerance_P: Floats
) -> float:
    """Return how far NDCG is from what PyTorch's scores allow, whichever way ties are broken.

    Two scores tie if they are within `tolerance_P`.
    """
    found_P = _gain(_place(rows_PK, probe.target_P))
    score_P = _reference_scores(probe, probe.target_P[:, None], item_outputs_CD)[:, 0]
    top_PK = probe.top_scores_PK
    before_P = (top_PK > (score_P + tolerance_P)[:, None]).sum(axis=1)
    until_P = (top_PK >= (score_P - tolerance_P)[:, None]).sum(axis=1)
    best_P = _gain(before_P)
    worst_P = _gain(np.maximum(before_P, until_P - 1))  # the target itself is among them
    outside_P = found_P - np.clip(found_P, worst_P, best_P)
    return float(np.abs(outside_P).mean())


def _place(rows_PK: Rows, target_P: Rows) -> Rows:
    """Return each target's place, counted from 0; K where it is not among the rows."""
    hit_PK = rows_PK == target_P[:, None]
    place_P: Rows = np.where(hit_PK.any(axis=1), hit_PK.argmax(axis=1), rows_PK.shape[1])
    return place_P


def _gain(place_P: Rows) -> npt.NDArray[np.float64]:
    inside_P = place_P < NDCG_AT
    gain_P: npt.NDArray[np.float64] = inside_P / np.log2(place_P + 2.0)
    return gain_P
