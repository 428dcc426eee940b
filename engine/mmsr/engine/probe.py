"""Compares a runner with PyTorch's answers on the probe set, in numbers and in recommender terms.

Used before a bundle is served, by `mmsr-repo verify` and by export's gate. Knows no torch: the
answers to compare with were stored at export.
"""

# P probe users, L longest probe history, K results compared, D output columns, C table rows

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from mmsr.bundle.errors import BundleError
from mmsr.engine.errors import ProbeFailed
from mmsr.engine.model import SequenceModel, open_model
from mmsr.engine.opened import PROBE
from mmsr.engine.runners.base import Runner

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

# How far two fp32 computations of one score may lie apart, relative to max(1, largest score).
# The project's definition of a right answer; measured errors are in each bundle's manifest.
FP32_TOLERANCE = 1e-4
FP32_OVERLAP = 1.0
BATCH = 64  # users a call
ALONE = 16  # users that are also computed one by one
NDCG_AT = 10


@dataclass(frozen=True, kw_only=True)
class ProbeSet:
    """`probe.npz`: histories, and what PyTorch answered with every item eligible."""

    history_PL: Rows  # oldest first, padded on the right with 0
    length_P: Rows
    target_P: Rows  # what came next in truth
    state_PD: Floats  # the score of row r is state @ item_outputs[r]
    top_rows_PK: Rows
    top_scores_PK: Floats


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """How near a runner's answers are to PyTorch's. Errors are relative to max(1, top score)."""

    runner: str
    users: int
    k: int
    overlap: float  # share of returned items that are right, ties within the tolerance allowed
    worst_overlap: float  # of one user
    max_abs_error: float  # of a score
    max_error: float  # the same, relative
    alone_error: float  # computed alone against in a batch, relative
    padding_error: float  # padded further against not, relative
    table_error: float  # of PyTorch's own best scores, computed anew from the bundle's table
    ndcg: float  # NDCG@10 of the targets, by the runner
    ndcg_reference: float  # the same, by PyTorch

    def check(self, *, overlap: float = FP32_OVERLAP, tolerance: float = FP32_TOLERANCE) -> None:
        """Raise `ProbeFailed`, which says what differs and by how much; defaults are fp32's."""
        problems = [
            f"{what} {value:.3g}, at most {tolerance:g} allowed"
            for what, value in (
                ("score error", self.max_error),
                ("alone against batched", self.alone_error),
                ("padded against unpadded", self.padding_error),
                ("output table against PyTorch's scores", self.table_error),
            )
            if not value <= tolerance  # NaN fails too
        ]
        if not self.overlap >= overlap:
            problems.insert(
                0, f"overlap@{self.k} {self.overlap:.6f}, at least {overlap:g} expected"
            )
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


def prove(model: SequenceModel) -> ProbeReport:
    """Compare an open model with PyTorch's answers in its bundle."""
    bundle = model.bundle
    items = bundle.manifest.tables.items
    probe = load_probe(bundle.folder, items)
    model.bind_eligible(np.ones(items, np.bool_))
    try:
        return probe_runner(model.runner, probe, bundle.item_outputs_CD, items)
    finally:
        model.bind_eligible(bundle.catalogue.available)


def probe_runner(
    runner: Runner, probe: ProbeSet, item_outputs_CD: Floats, items: int
) -> ProbeReport:
    """Compare a runner whose tables are bound and whose bias makes every item eligible."""
    k = min(probe.top_rows_PK.shape[1], items)
    everyone = np.arange(len(probe.length_P))
    rows_PK, scores_PK = _answers(runner, probe, everyone, k)
    known_PK = (rows_PK >= 1) & (rows_PK <= items)
    reference_PK = _reference_scores(probe, rows_PK * known_PK, item_outputs_CD)
    scale_P = np.maximum(1.0, np.abs(probe.top_scores_PK[:, :k]).max(axis=1))
    least_P = probe.top_scores_PK[:, k - 1] - FP32_TOLERANCE * scale_P
    right_P = _count_right(rows_PK, known_PK & (reference_PK >= least_P[:, None]))
    few = _sample(probe.length_P)
    alone_fk = np.concatenate(
        [_answers(runner, probe, few[i : i + 1], k)[1] for i in range(len(few))]
    )
    wide_fk = _answers(runner, probe, few, k, width=probe.history_PL.shape[1])[1]
    error_P = _distance(scores_PK, reference_PK)
    return ProbeReport(
        runner=runner.name,
        users=len(everyone),
        k=k,
        overlap=float(right_P.mean() / k),
        worst_overlap=float(right_P.min() / k),
        max_abs_error=float(error_P.max()),
        max_error=float((error_P / scale_P).max()),
        alone_error=float((_distance(alone_fk, scores_PK[few]) / scale_P[few]).max()),
        padding_error=float((_distance(wide_fk, alone_fk) / scale_P[few]).max()),
        table_error=_table_error(probe, item_outputs_CD, scale_P),
        ndcg=_ndcg(rows_PK, probe.target_P),
        ndcg_reference=_ndcg(probe.top_rows_PK, probe.target_P),
    )


def _table_error(probe: ProbeSet, item_outputs_CD: Floats, scale_P: Floats) -> float:
    """Return how far PyTorch's stored best scores are from state @ table, relative.

    The reference of every other comparison reads the same table: rows that were swapped or come
    from another epoch would agree with themselves.
    """
    again_PK = _reference_scores(probe, probe.top_rows_PK, item_outputs_CD)
    return float((_distance(again_PK, probe.top_scores_PK) / scale_P).max())


def load_probe(folder: Path, items: int) -> ProbeSet:
    """Read `probe.npz`; `BundleError` if an array is missing, misshapen or out of range."""
    path = folder / PROBE
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            probe = ProbeSet(
                history_PL=arrays["history"],
                length_P=arrays["length"],
                target_P=arrays["target"],
                state_PD=arrays["state"],
                top_rows_PK=arrays["top_rows"],
                top_scores_PK=arrays["top_scores"],
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise BundleError(f"{path} is unreadable ({error}); export the model again") from None
    problem = _problem(probe, items)
    if problem:
        raise BundleError(f"{path}: {problem}; export the model again")
    return probe


def _problem(probe: ProbeSet, items: int) -> str | None:
    users = len(probe.length_P)
    for name, array in vars(probe).items():
        wanted = np.float32 if name in ("state_PD", "top_scores_PK") else np.int64
        rank = 1 if name in ("length_P", "target_P") else 2
        if array.dtype != wanted or array.ndim != rank or len(array) != users:
            return f"{name} is {array.dtype} {list(array.shape)} for {users} users"
    if users == 0 or probe.top_rows_PK.shape != probe.top_scores_PK.shape:
        return f"{users} users, top rows {probe.top_rows_PK.shape}, expected at least one"
    if probe.history_PL.min() < 0 or probe.history_PL.max() > items:
        return f"a history has rows outside 0 to {items}"
    if probe.length_P.min() < 1 or probe.length_P.max() > probe.history_PL.shape[1]:
        return f"a length is outside 1 to {probe.history_PL.shape[1]}"
    return None


def _answers(
    runner: Runner, probe: ProbeSet, users: Rows, k: int, width: int | None = None
) -> tuple[Rows, Floats]:
    """Return rows and scores [len(users), K], in batches padded to `width` or their longest."""
    rows, scores = [], []
    for start in range(0, len(users), BATCH):
        some = users[start : start + BATCH]
        length = probe.length_P[some]
        outputs = runner.run(
            {
                "history": probe.history_PL[some, : width or int(length.max())],
                "length": length,
                "excluded": np.zeros((len(some), 1), np.int64),
                "bias_row": np.zeros(len(some), np.int64),
                "k": np.array([k], np.int64),
            }
        )
        rows.append(outputs["rows"])
        scores.append(outputs["scores"])
    return np.concatenate(rows), np.concatenate(scores)


def _reference_scores(probe: ProbeSet, rows_PK: Rows, item_outputs_CD: Floats) -> Floats:
    reference: Floats = np.einsum("pd,pkd->pk", probe.state_PD, item_outputs_CD[rows_PK])
    return reference


def _count_right(rows_PK: Rows, right_PK: npt.NDArray[np.bool_]) -> Rows:
    """Count each user's distinct right rows: the best item returned K times is right once."""
    counts = [len(set(rows[right].tolist())) for rows, right in zip(rows_PK, right_PK, strict=True)]
    return np.array(counts, np.int64)


def _sample(length_P: Rows) -> Rows:
    """Return up to `ALONE` users, spread from the shortest history to the longest."""
    by_length = np.argsort(length_P, kind="stable")
    places = np.linspace(0, len(by_length) - 1, min(ALONE, len(by_length)))
    return by_length[places.astype(np.int64)]


def _distance(a_PK: Floats, b_PK: Floats) -> Floats:
    """Return each user's largest difference; NaN or infinite where either is."""
    with np.errstate(invalid="ignore"):
        distance: Floats = np.abs(a_PK - b_PK).max(axis=1)
    return distance


def _ndcg(rows_PK: Rows, target_P: Rows) -> float:
    hit_PK = rows_PK[:, :NDCG_AT] == target_P[:, None]
    discount_K = 1.0 / np.log2(np.arange(2, hit_PK.shape[1] + 2))
    return float((hit_PK * discount_K).sum(axis=1).mean())
