"""Dashboard, alerts and on-call page speak of metrics that the server has, and of all of them."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from support.tree import ROOT

from mmsr.engine.admin_control import Served
from mmsr.engine.call_stats import CallStats
from mmsr.engine.metrics import CallMetrics, Source, registry_of
from mmsr.engine.server_metrics import LoadMetrics, LoopLag, ServingMetrics, StateMetrics
from mmsr.engine.serving import Serving
from mmsr.engine.split import CanaryConfig
from mmsr.engine.trial import Trial
from mmsr.engine.trial_metrics import TrialMetrics

FOLDER = ROOT / "engine" / "operations"
SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "info": ("_info",),
}
METRIC = re.compile(r"\b(?:mmsr|process|python)_[a-z_]+\b")
SELECTED = re.compile(r"\b((?:mmsr|process|python)_[a-z_]+)\{([^}]*)\}")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPED = re.compile(r"\bby\s*\(([^)]*)\)")
ADDED_BY_PROMETHEUS = {"job", "instance"}
BOUNDS = {"le"}
INFO_LABELS = {"label", "model_version", "runner", "version"}


class NothingServed:
    """A server without a bundle and without a live catalogue."""

    live = None

    def served(self, label: str) -> Served:
        raise AssertionError(f"{label} is served")


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Return every sample's name that the server can export, with its labels."""
    serving = Serving("stable")
    sources: list[Source] = [
        CallMetrics(CallStats(serving)),
        ServingMetrics(serving, NothingServed(), "0"),
        LoadMetrics(),
        LoopLag(),
        StateMetrics(lambda: True, {}),
        TrialMetrics(Trial(CanaryConfig(label="canary"), serving, lambda: 0.0)),
    ]
    found: dict[str, set[str]] = {}
    for family in registry_of(sources).collect():
        labels = {name for sample in family.samples for name in sample.labels}
        labels |= set(getattr(family, "_labelnames", ()))  # where there is no sample yet
        if family.type == "info":
            labels |= INFO_LABELS
        for suffix in SUFFIXES[family.type]:
            found[family.name + suffix] = labels
    return found


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


@pytest.fixture(scope="module")
def page() -> str:
    return (FOLDER / "ONCALL.md").read_text()


def expressions(dashboard: dict[str, Any], rules: list[dict[str, Any]]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (note["expr"] for note in dashboard["annotations"]["list"])
    for variable in dashboard["templating"]["list"]:
        yield variable.get("definition", "")
    yield from (rule["expr"] for rule in rules)


def test_every_expression_uses_metrics_and_labels_that_there_are(
    exported: dict[str, set[str]], dashboard: dict[str, Any], rules: list[dict[str, Any]]
) -> None:
    every = {label for labels in exported.values() for label in labels}
    count = 0
    for expression in expressions(dashboard, rules):
        count += 1
        unknown = set(METRIC.findall(expression)) - exported.keys()
        assert not unknown, f"{unknown} in {expression}"
        for metric, selected in SELECTED.findall(expression):
            labels = set(LABEL.findall(selected))
            assert labels <= exported[metric] | ADDED_BY_PROMETHEUS, expression
        for names in GROUPED.findall(expression):
            labels = {name.strip() for name in names.split(",")}
            assert labels <= every | ADDED_BY_PROMETHEUS | BOUNDS, expression
    assert count > 30


def test_the_dashboard_is_one_that_grafana_imports(dashboard: dict[str, Any]) -> None:
    assert isinstance(dashboard["title"], str)
    assert isinstance(dashboard["schemaVersion"], int)
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    for panel in panels:
        place = panel["gridPos"]
        assert place["w"] > 0
        assert place["x"] + place["w"] <= 24, panel["title"]
        targets = panel.get("targets", [])
        assert bool(targets) == (panel["type"] != "row"), panel["title"]
        assert len({target["refId"] for target in targets}) == len(targets)
        assert {panel.get("datasource", {}).get("uid", "${datasource}")} == {"${datasource}"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard)))
    built_in = {"__rate_interval", "__all"}
    assert used - built_in <= variables


def test_no_two_panels_lie_on_each_other(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells


def test_every_alert_leads_to_a_part_of_the_page(rules: list[dict[str, Any]], page: str) -> None:
    anchors = {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^## (.*)$", page, re.MULTILINE)
    }
    for rule in rules:
        file, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (ROOT / file).is_file()
        assert anchor in anchors, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_page_names_every_metric_of_the_server_and_no_other(
    exported: dict[str, set[str]], page: str
) -> None:
    named = set(METRIC.findall(page))
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported}
    assert {name for name in named if name not in exported} <= bases
    own = {name for name in bases if name.startswith("mmsr_")}
    assert own <= named
