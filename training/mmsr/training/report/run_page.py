"""The page of one run: how good it is, how training went, what was trained."""

from datetime import UTC, datetime
from statistics import median
from typing import Any

from mmsr.training.report.curves import Trained, run_curves
from mmsr.training.report.evaluation_tables import evaluation_section, metric_name
from mmsr.training.report.html import (
    Html,
    facts,
    folded,
    join,
    metric,
    plain,
    section,
    spoken,
    tiles,
)
from mmsr.training.report.page import page
from mmsr.training.report.runs import RunFiles, best_epoch, column
from mmsr.training.selection import MASKS, METRICS, column_of, selecting_mask

PLACES = ("path", "weights_path", "run")  # of the machine that trained; no reader needs them
FOOTER = (
    "Validation chose the epoch that is kept. Every item of the catalogue is ranked; “masked” "
    "leaves out the items of the user's history."
)


def run_page(run: RunFiles) -> str:
    """Return the page as one HTML document."""
    made = datetime.now(UTC).strftime("%Y-%m-%d")
    content = [_tiles(run), evaluation_section(run.evaluation), _curves(run), _trained(run)]
    return page(run.name, _subtitle(run), content, f"{FOOTER} Page made {made}.")


def _subtitle(run: RunFiles) -> str:
    model = run.info.get("recipe", {}).get("model", {})
    parts = ["Training run"]
    if run.data is not None:
        parts.append(f"on {run.data['name']}")
    if model.get("sources"):
        parts.append(f"· sources: {plain(model['sources'])}")
    if model.get("fusion"):
        parts.append(f"· fusion: {model['fusion']}")
    return " ".join(parts)


def _tiles(run: RunFiles) -> Html:
    found: list[tuple[str, str, str]] = []
    metrics = (run.evaluation or {}).get("metrics", {})
    mask = selecting_mask(name for line in run.log for name in line) or "masked"
    for name in METRICS:
        key = f"{mask}.{name}"
        if f"test.{key}" in metrics:
            popularity = metrics.get(f"popularity.{key}")
            above = "" if popularity is None else f"; popularity {metric(popularity)}"
            remark = f"{MASKS[mask]}{above}"
            found.append((f"Test {metric_name(name)}", metric(metrics[f"test.{key}"]), remark))
    best = best_epoch(run.log)
    if best is not None:
        value = dict(column(run.log, column_of(mask, METRICS[0])))[best]
        found.append(("Validation NDCG@10", metric(value), f"epoch {best:g} of {len(run.log)}"))
    seconds = [value for _, value in column(run.log, "train_s")]
    if seconds:
        found.append(("Seconds an epoch", f"{median(seconds):.3g}", "median, training alone"))
    return tiles(found) if found else Html("")


def _curves(run: RunFiles) -> Html:
    if not run.log:
        return section("Training", "No epoch is finished yet.")
    return section("Training", run_curves(Trained(name=run.name, log=run.log)))


def _trained(run: RunFiles) -> Html:
    info = run.info
    data: dict[str, Any] = {}
    if run.data is not None:
        data |= {k: run.data[k] for k in ("name", "users", "items", "interactions")}
    data |= run.prepared or {"items": info.get("items")}
    data["hash"] = info.get("data_hash")
    return join(
        [
            section("Data", _facts(data)),
            section("Made with", _facts(info.get("provenance", {}))),
            _features(info),
            section("Recipe", recipe_tables(info.get("recipe", {}))),
        ]
    )


def _features(info: dict[str, Any]) -> Html:
    found: dict[str, dict[str, Any] | None] = info.get("features", {})
    hashes = info.get("content_hashes", {})
    parts = [
        folded(f"{modality}: {(spec or {}).get('encoder', 'no item has one')}", _facts(spec or {}))
        for modality, spec in found.items()
    ]
    return section("Features", *parts, folded("hashes", _facts(hashes))) if hashes else Html("")


def recipe_tables(recipe: dict[str, Any], of: str = "") -> Html:
    """Return the tables of a recipe, folded; `of` says whose it is."""
    return join(
        folded(f"[{name}]{of}", facts(keys if isinstance(keys, dict) else {name: keys}))
        for name, keys in recipe.items()
    )


def _facts(values: dict[str, Any]) -> Html:
    return facts(spoken(_public(values)))


def _public(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values without places of one machine."""
    return {
        key: _public(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in PLACES
    }
