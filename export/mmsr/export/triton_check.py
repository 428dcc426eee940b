"""Compares the graph with constant tables with the bundle's own, both by ONNX Runtime."""

# B requests, K results

from pathlib import Path

import numpy as np

from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.model import RowRequest, assemble, open_model
from mmsr.engine.opened import OpenedBundle
from mmsr.engine.precision import FP32_TOLERANCE
from mmsr.engine.probe_set import Floats, Rows, load_probe
from mmsr.engine.runners.onnx import open_onnx

USERS = 256  # of the probe set
BATCH = 64
RESULTS = 20


def check_same_answers(bundle: OpenedBundle, path: Path, spec: GraphSpec) -> None:
    """Raise `BundleError` unless both graphs give the same rows and scores to the probe users.

    What they have seen is excluded. Rows may differ where their scores tie.
    """
    items = bundle.manifest.tables.items
    probe = load_probe(bundle.folder, items)
    histories = [
        history[:length].tolist()
        for history, length in zip(probe.history_PL[:USERS], probe.length_P[:USERS], strict=True)
    ]
    k = min(RESULTS, items)
    model = open_model(bundle.folder, threads=1)
    constant = open_onnx(path, spec, threads=1)
    try:
        for start in range(0, len(histories), BATCH):
            requests = [RowRequest(h, h, k) for h in histories[start : start + BATCH]]
            wanted = model.runner.run(model.inputs(requests, k))
            batch = assemble(requests)
            each = {name: batch[name] for name in ("history", "length", "excluded")}
            found = constant.run(each | {"k": np.full((len(requests), 1), k, np.int64)})
            wanted_rows = model.scored.rows(wanted["rows"])
            _compare(path, wanted_rows, wanted["scores"], found["rows"], found["scores"])
    finally:
        constant.close()
        model.close()


def _compare(
    path: Path, rows_BK: Rows, scores_BK: Floats, found_rows_BK: Rows, found_scores_BK: Floats
) -> None:
    if found_rows_BK.shape != rows_BK.shape or found_scores_BK.shape != scores_BK.shape:
        raise BundleError(f"{path} answers {found_rows_BK.shape}, expected {rows_BK.shape}")
    real_BK = np.isfinite(scores_BK)
    same_end = bool((np.isfinite(found_scores_BK) == real_BK).all())
    scale_B1 = np.maximum(1.0, np.abs(np.where(real_BK, scores_BK, 0)).max(axis=1, keepdims=True))
    with np.errstate(invalid="ignore"):
        error_BK = np.where(real_BK, np.abs(found_scores_BK - scores_BK) / scale_B1, 0.0)
    differs_BK = real_BK & (rows_BK != found_rows_BK)
    gap_BK = _distance_to_neighbour(np.where(real_BK, scores_BK, -np.inf)) / scale_B1
    wrong = int((differs_BK & (gap_BK > 2 * FP32_TOLERANCE)).sum())
    if not same_end or wrong or not error_BK.max() <= FP32_TOLERANCE:
        raise BundleError(
            f"{path}: the graph with constant tables does not answer as the bundle's: {wrong} rows "
            f"differ, scores by up to {error_BK.max():.3g}, at most {FP32_TOLERANCE:g} allowed"
        )


def _distance_to_neighbour(scores_BK: Floats) -> Floats:
    """Return how far each score is from the nearer of the places before and after it.

    The last place has an unknown place after it, which may tie: its distance is 0.
    """
    with np.errstate(invalid="ignore"):
        steps = np.abs(np.diff(scores_BK, axis=1))
    first = np.full((len(scores_BK), 1), np.inf, scores_BK.dtype)
    after = np.concatenate([steps, np.zeros_like(first)], axis=1)
    nearer: Floats = np.minimum(np.concatenate([first, steps], axis=1), after)
    return nearer
