"""A report of the scenario `catalogue`, made by real code from writes whose times are made up."""

from dataclasses import replace
from typing import Any

from support.load_report import load_report

from mmsr.engine.bench.catalogue_bench import traffic_counts, traffic_ratios
from mmsr.engine.bench.plan import Window
from mmsr.engine.bench.report import ServerReport
from mmsr.engine.bench.samples import OK
from mmsr.engine.bench.wire import RESOURCE_EXHAUSTED
from mmsr.engine.bench.write_summary import write_findings
from mmsr.engine.bench.writes import KINDS, NEW, Written

WINDOW = Window(warm_up_s=1.0, duration_s=10.0)


def written(**said: Any) -> Written:
    """Return a write that went well, 20 ms to its acknowledgement and 30 ms until it was shown."""
    ordinary: dict[str, Any] = {
        "kind": NEW,
        "window": 0,
        "intended_s": 2.0,
        "lag_ms": 0.1,
        "status": OK,
        "acknowledged_ms": 20.0,
        "shown_ms": 30.0,
        "gap_ms": 9.0,
        "stale": 0,
        "encode_ms": 0.0,
    }
    return Written(**(ordinary | said))


def lost(status: int, **said: Any) -> Written:
    return written(status=status, acknowledged_ms=None, shown_ms=None, gap_ms=None, **said)


def many(count: int, **said: Any) -> list[Written]:
    """Return writes spread over the window, shown after 1, 2, 3 … ms."""
    return [
        written(intended_s=1 + 10 * n / count, shown_ms=float(n + 1), **said) for n in range(count)
    ]


def restored(**said: Any) -> dict[str, Any]:
    same = {"items": 5, "sha256": "a"}
    return {
        "prefix": "mmsr-bench-1",
        "written": 7,
        "before": same,
        "after": same,
        "left": 0,
        "error": None,
        "same": True,
    } | said


def report_of(done: list[Written], **said: Any) -> ServerReport:
    plain = load_report()
    runs = plain.runs[1:3]
    sides = list(zip("AB", runs, strict=True))
    findings = {
        "writes_per_s": 5.0,
        "probe_ms": 10.0,
        "content": "features",
        "windows": ["A", "B"],
        **write_findings(done, WINDOW),
        "first_details": {"RESOURCE_EXHAUSTED": "no row"},
        "questions": 100,
        "unanswered": 3,
        "traffic": traffic_ratios(sides),
        "counts": {side: traffic_counts(sides, side) for side in "AB"},
        "memory_mib": {"first": 100.0, "most": 120.0, "last": 110.0},
        "restored": restored(),
        "void": None,
    }
    return replace(plain, scenario="catalogue", runs=runs, findings=findings | said)


def write_report_of() -> ServerReport:
    """Return a report with every kind of write and one that was refused."""
    done = [write for kind in KINDS for write in many(40, kind=kind)]
    return report_of([*done, lost(RESOURCE_EXHAUSTED)])
