"""How two bundles differ: their metrics, their catalogues and what they recommend.

Both answer through the engine's own runner, as a server would. Knows no torch.
"""

# P probe users, K results compared

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmsr.bundle.catalogue import Catalogue, load_catalogue
from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import load_manifest
from mmsr.engine.model import RowRequest, SequenceModel
from mmsr.engine.probe_set import ProbeSet, load_probe
from mmsr.engine.rankings import overlap, rank_biased_overlap
from mmsr.export.provable import open_to_prove

RESULTS = 20
EXAMPLES = 10  # item ids named of each kind of change
BATCH = 64  # probe users a call
FIELDS = ("title", "categories", "available", "popularity")


@dataclass(frozen=True, kw_only=True)
class CatalogueDiff:
    """Items by id; `changed` counts items of both whose entry differs, field by field."""

    items_a: int
    items_b: int
    added: int
    removed: int
    changed_rows: int  # any field but popularity
    changed: dict[str, int]
    added_examples: list[str]
    removed_examples: list[str]
    changed_examples: list[str]


@dataclass(frozen=True, kw_only=True)
class TopKDiff:
    """What the same histories get from both, their own defaults applied."""

    users: int
    skipped: int  # whose history has no item that B knows
    k: int
    overlap: float  # share of the results that both have; 1.0: the same
    overlap_p10: float  # of the user at the tenth percentile
    rank_biased_overlap: float  # the same, the first places counting most
    same_first: float  # share of users


@dataclass(frozen=True, kw_only=True)
class BundleDiff:
    """A against B."""

    a: str
    b: str
    metrics: dict[str, tuple[float | None, float | None]]
    catalogue: CatalogueDiff
    top_k: TopKDiff


def diff_bundles(a: Path, b: Path, *, threads: int = 1) -> BundleDiff:
    """Compare two bundles; `BundleError` if either is damaged."""
    manifest_a, manifest_b = load_manifest(a), load_manifest(b)
    names = sorted(manifest_a.metrics.keys() | manifest_b.metrics.keys())
    return BundleDiff(
        a=manifest_a.bundle_id,
        b=manifest_b.bundle_id,
        metrics={n: (manifest_a.metrics.get(n), manifest_b.metrics.get(n)) for n in names},
        catalogue=diff_catalogues(load_catalogue(a), load_catalogue(b)),
        top_k=_diff_answers(a, b, threads),
    )


def diff_catalogues(a: Catalogue, b: Catalogue) -> CatalogueDiff:
    """Compare the entries of two catalogues by item id."""
    rows_a, rows_b = a.rows(), b.rows()
    added = [item_id for item_id in b.item_ids if item_id not in rows_a]
    removed = [item_id for item_id in a.item_ids if item_id not in rows_b]
    counts = dict.fromkeys(FIELDS, 0)
    changed = []
    for item_id in a.item_ids:
        if item_id in rows_b:
            pair = zip(_entry(a, rows_a[item_id]), _entry(b, rows_b[item_id]), strict=True)
            differing = [field for field, (x, y) in zip(FIELDS, pair, strict=True) if x != y]
            for field in differing:
                counts[field] += 1
            if any(field != "popularity" for field in differing):
                changed.append(item_id)
    return CatalogueDiff(
        items_a=len(a),
        items_b=len(b),
        added=len(added),
        removed=len(removed),
        changed_rows=len(changed),
        changed=counts,
        added_examples=added[:EXAMPLES],
        removed_examples=removed[:EXAMPLES],
        changed_examples=changed[:EXAMPLES],
    )


def _entry(catalogue: Catalogue, row: int) -> tuple[str | None, frozenset[str], bool, int]:
    n = row - 1
    return (
        catalogue.titles[n],
        frozenset(catalogue.categories[n]),
        bool(catalogue.available[n]),
        int(catalogue.popularity[n]),
    )


def _diff_answers(a: Path, b: Path, threads: int) -> TopKDiff:
    model_a = open_to_prove(a, threads=threads)
    try:
        model_b = open_to_prove(b, threads=threads)
        try:
            return _compare(model_a, model_b)
        finally:
            model_b.close()
    finally:
        model_a.close()


def _compare(a: SequenceModel, b: SequenceModel) -> TopKDiff:
    """Ask both for the histories of A's probe set, as item ids; B may not know all of them."""
    ids_a = a.bundle.catalogue.item_ids
    rows_b = b.bundle.catalogue.rows()
    probe = load_probe(a.bundle.folder, len(ids_a))
    histories_a = _histories(probe)
    histories_b = [
        [rows_b[ids_a[row - 1]] for row in history if ids_a[row - 1] in rows_b]
        for history in histories_a
    ]
    asked = [p for p, history in enumerate(histories_b) if history]
    if not asked:
        raise BundleError(
            f"{b.bundle.folder} knows no item of the histories in {a.bundle.folder}'s probe set: "
            "nothing to compare; these are bundles of different shops"
        )
    answers_a = _answers(a, [histories_a[p] for p in asked])
    answers_b = _answers(b, [histories_b[p] for p in asked])
    pairs = list(zip(answers_a, answers_b, strict=True))
    k = max(len(answer) for pair in pairs for answer in pair)
    shares = np.array([overlap(x, y) for x, y in pairs])
    return TopKDiff(
        users=len(asked),
        skipped=len(histories_a) - len(asked),
        k=k,
        overlap=float(shares.mean()),
        overlap_p10=float(np.quantile(shares, 0.1)),
        rank_biased_overlap=float(np.mean([rank_biased_overlap(x, y) for x, y in pairs])),
        same_first=float(np.mean([x[:1] == y[:1] for x, y in pairs])),
    )


def _histories(probe: ProbeSet) -> list[list[int]]:
    return [
        [row for row in history[:length].tolist() if row]
        for history, length in zip(probe.history_PL, probe.length_P, strict=True)
    ]


def _answers(model: SequenceModel, histories: Sequence[list[int]]) -> list[list[str]]:
    """Return each user's recommended item ids, best first."""
    ids = model.bundle.catalogue.item_ids
    k = min(RESULTS, len(ids))
    exclude = model.bundle.manifest.exclude_seen
    requests = [RowRequest(h[-model.max_length :], h if exclude else [], k) for h in histories]
    return [
        [ids[row - 1] for row in answer.rows]
        for start in range(0, len(requests), BATCH)
        for answer in model.recommend(requests[start : start + BATCH])
    ]
