"""What `mmsr-train evaluate` found, as tables: the metrics, cold items, missing modalities."""

import re
from pathlib import Path
from typing import Any

from mmsr.training.report.html import Html, facts, metric, section, spoken, table, tag
from mmsr.training.statistics import signed_interval

METRIC = re.compile(r"(?P<part>\w+)\.(?P<mask>masked|unmasked)\.(?P<name>(recall|ndcg|mrr)@(\d+))")
NAMES = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR"}
PARTS = ("test", "popularity", "validation")
TABLED = ("metrics", "above_popularity", "cold", "missing", "from")
AMONG = {"masked": "among all items", "cold": "among the cold"}
COLD_METRICS = ("recall@10", "ndcg@10", "mrr@10")


def metric_name(key: str) -> str:
    """Return "ndcg@10" as it is usually written."""
    name, _, cutoff = key.partition("@")
    return f"{NAMES.get(name, name)}@{cutoff}"


def evaluation_section(found: dict[str, Any] | None) -> Html:
    """Return the part of the page about metrics; None is a run that was not evaluated."""
    if found is None:
        hint = tag("p", "Not evaluated yet: ", tag("code", "mmsr-train evaluate RUN"))
        return section("Metrics", hint)
    parts = [_metrics(found), _above(found.get("above_popularity")), facts(spoken(_rest(found)))]
    if "from" in found:
        parts.insert(0, _selected(found["from"]))
    if "cold" in found:
        parts += _cold(found["cold"])
    if "missing" in found:
        parts += _missing(found["missing"])
    return section("Metrics", *parts)


def _metrics(found: dict[str, Any]) -> Html:
    metrics: dict[str, float] = found.get("metrics", {})
    matches = [match for key in metrics if (match := METRIC.fullmatch(key))]
    columns = list(dict.fromkeys((m["part"], m["mask"]) for m in matches))
    columns.sort(key=lambda column: PARTS.index(column[0]) if column[0] in PARTS else len(PARTS))
    names = sorted({m["name"] for m in matches}, key=_by_kind)
    rows = [
        [metric_name(name), *(_cell(metrics.get(f"{p}.{m}.{name}")) for p, m in columns)]
        for name in names
    ]
    return table(["", *(f"{part}, {mask}" for part, mask in columns)], rows)


def _rest(found: dict[str, Any]) -> dict[str, Any]:
    """Return what no table has."""
    metrics = found.get("metrics", {})
    rest = {key: value for key, value in metrics.items() if not METRIC.fullmatch(key)}
    return rest | {key: value for key, value in found.items() if key not in TABLED}


def _above(found: dict[str, float] | None) -> Html:
    if found is None:
        return Html("")
    text = (
        f"NDCG@10 above popularity, history masked: {found['ndcg@10']:+.4f}, 95% interval "
        f"{found['low']:+.4f} to {found['high']:+.4f} (paired bootstrap over the users)."
    )
    return tag("p", text)


def _selected(by: dict[str, Any]) -> Html:
    name = Path(str(by.get("run"))).name
    text = f"This run was trained on all interactions; the metrics are those of {name}, which "
    return tag("p", text, "selected its number of epochs.", class_="muted")


def _cold(found: dict[str, Any]) -> list[Html]:
    title = f"Cold items: {found['items']:,} of them, {found['users']:,} users whose target is one"
    shown = [(among, name) for among in AMONG for name in COLD_METRICS]
    rows = [
        [who, *(_cell(metrics.get(among, {}).get(name)) for among, name in shown)]
        for who, metrics in found["metrics"].items()
    ]
    head = ["", *(f"{metric_name(name)} {AMONG[among]}" for among, name in shown)]
    above = [
        tag(
            "p",
            f"Model minus {who}, NDCG@10 [95%]: {signed_interval(values['masked'])} among all "
            f"items, {signed_interval(values['cold'])} among the cold.",
        )
        for who, values in found.get("model_above", {}).items()
    ]
    return [tag("h3", title), table(head, rows), *above]


def _missing(found: dict[str, Any]) -> list[Html]:
    against: dict[str, float] | None = found.get("against")
    rows = [["nothing", *_both(found["whole"]), "–", "–" if against is None else "100%"]]
    for case in found["cases"]:
        gain = case.get("gain_kept")
        name = f"{case['modality']}, of {case['share']:.0%} of the items"
        cells = [signed_interval(case["to_whole"]), "–" if gain is None else f"{gain:.0%}"]
        rows.append([name, *_both(case), *cells])
    if against is not None:
        rows.append(["compared with", *_both(against), "–", "0%"])
    head = ("missing", "validation NDCG@10", "test NDCG@10", "test minus whole [95%]", "gain kept")
    return [tag("h3", "Items lack a modality"), table(head, rows)]


def _both(values: dict[str, float]) -> list[str]:
    return [metric(values[part]) for part in ("validation", "test")]


def _cell(value: float | None) -> str:
    return "–" if value is None else metric(value)


def _by_kind(name: str) -> tuple[int, int]:
    kind, _, cutoff = name.partition("@")
    return list(NAMES).index(kind), int(cutoff)
