"""`--html`: a report as one page for a browser."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmsr.bundle.files import atomic_path
from mmsr.engine.bench.compare import CompareReport
from mmsr.engine.bench.compare_tables import row
from mmsr.engine.bench.page.frame import page
from mmsr.engine.bench.page.html import Html, facts, section, table, tag, tiles
from mmsr.engine.bench.page.load_charts import (
    batch_sizes,
    distribution,
    latency_against_rate,
    roofline,
    timelines,
)
from mmsr.engine.bench.page.runner_pages import runner_page
from mmsr.engine.bench.page.values import environment_facts, plain
from mmsr.engine.bench.page.write_charts import SHOWN_ELSEWHERE, write_sections, write_tiles
from mmsr.engine.bench.report import ServerReport
from mmsr.engine.bench.summary import RunSummary
from mmsr.engine.bench.tables import bounds, ceilings_note, name, notes, number, share, short


def write_page(path: Path, report: Any) -> None:
    """Write the page of any scenario's report."""
    with atomic_path(path) as temporary:
        temporary.write_text(page_of(report), encoding="utf-8")


def page_of(report: Any) -> str:
    """Return the page of a report."""
    if isinstance(report, CompareReport):
        return comparison_page(report)
    if isinstance(report, ServerReport):
        return load_page(report)
    return runner_page(report)


def load_page(report: ServerReport) -> str:
    """Return the page of all runs of one scenario."""
    writes = report.findings if report.scenario == "catalogue" else {}
    names = run_names(report.runs, writes.get("windows", ()))
    content = [
        tiles(write_tiles(writes) if writes else _tiles(report)),
        *(write_sections(writes) if writes else []),
        section("What a client sees", _client_table(report.runs)),
        Html("") if writes else section("Latency against rate", latency_against_rate(report.runs)),
        section("Distribution", distribution(report.runs, names)),
        section("Second by second", timelines(report.runs, names)),
        section("Batches", batch_sizes(report.runs)),
    ]
    if report.ceilings is not None:
        content.append(
            section(
                "Roofline",
                roofline(report.runs, report.ceilings),
                _ceilings_table(report),
                tag("p", ceilings_note(report.ceilings), class_="notes"),
            )
        )
    content += [
        section("Findings", facts(plain(_findings(report)))) if report.findings else Html(""),
        section("How to read this", *(tag("p", note, class_="notes") for note in notes(report))),
        section("Where and how", facts(environment_facts(report.environment))),
    ]
    title = f"mmsr-bench {report.scenario}: {report.target}"
    subtitle = f"bundle {report.bundle_id}, {report.histories:,} histories, k {report.k}"
    return page(title, subtitle, content, report.environment.time)


def run_names(runs: Sequence[RunSummary], windows: Sequence[str]) -> list[str]:
    """Return what charts call each run; windows of one load by their place and side."""
    if not windows:
        return [run.plan.name for run in runs]
    return [
        f"{place}: {side}" for place, (_, side) in enumerate(zip(runs, windows, strict=False), 1)
    ]


def _findings(report: ServerReport) -> dict[str, Any]:
    if report.scenario != "catalogue":
        return report.findings
    return {name: said for name, said in report.findings.items() if name not in SHOWN_ELSEWHERE}


def _tiles(report: ServerReport) -> list[tuple[str, str, str]]:
    best = max(report.runs, key=lambda run: run.goodput_per_s)
    found = [
        (
            "best goodput",
            f"{number(best.goodput_per_s, 0)}/s",
            f"within {best.plan.traffic.slo_ms:g} ms, {best.plan.name}",
        )
    ]
    open_runs = [run for run in report.runs if run.plan.is_open and run.latency_ms["p99"]]
    if open_runs:
        last = open_runs[-1]
        interval = bounds(last.latency_intervals["p99"])
        found.append((f"p99, {last.plan.name}", f"{short(last.latency_ms['p99'])} ms", interval))
    if report.ceilings is not None:
        shares = report.ceilings.shares(best)
        found.append(("of bare gRPC", share(shares["echo"]), "the best goodput's run"))
    failed = sum(run.failed for run in report.runs)
    found.append(("without an answer", number(failed, 0), "requests, refused or failed"))
    return found


def _client_table(runs: Sequence[RunSummary]) -> Html:
    head = ("load", "good/s", "95 %", "answers/s", "p50 ms", "95 %", "p90 ms", "p99 ms", "95 %")
    more = ("refused", "errors", "server us", "generator us", "lag p99 ms")
    rows = [
        [
            name(run),
            number(run.goodput_per_s, 0),
            bounds(run.goodput_interval),
            number(run.answered_per_s, 0),
            short(run.latency_ms["p50"]),
            bounds(run.latency_intervals["p50"]),
            short(run.latency_ms["p90"]),
            short(run.latency_ms["p99"]),
            bounds(run.latency_intervals["p99"]),
            number(sum(run.refusals.values()), 0),
            number(sum(run.errors.values()), 0),
            number(run.process.cpu_us if run.process else None, 0),
            number(run.generator_cpu_us, 0),
            short(run.lag_ms["p99"] if run.lag_ms else None),
        ]
        for run in runs
    ]
    return table([*head, *more], rows)


def _ceilings_table(report: ServerReport) -> Html:
    assert report.ceilings is not None
    rows = [
        [name(run), *(share(of) for of in report.ceilings.shares(run).values())]
        for run in report.runs
    ]
    return table(("load", "of bare gRPC", "of the runner", "of memory"), rows)


def comparison_page(report: CompareReport) -> str:
    """Return the page of a comparison."""
    content = [
        section(
            run.name,
            table(
                ("", "A", "B", "B / A", "95 %", "verdict"),
                [row(ratio) for ratio in run.ratios],
            ),
        )
        for run in report.runs
    ]
    content += [
        section(
            "The two sides",
            table(
                ("", "A", "B"),
                [[fact, str(report.a[fact]), str(report.b[fact])] for fact in report.a],
            ),
        ),
        section("Where and how", facts(environment_facts(report.environment))),
    ]
    subtitle = f"a regression is more than {report.max_regression:.0%} worse, surely"
    return page("mmsr-bench compare", subtitle, content, report.environment.time)
