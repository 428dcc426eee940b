"""Shows what was measured without a server in a terminal. Decides nothing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from mmsr.engine.bench.tables import (
    number,
    print_environment,
    print_lines,
    share,
    short,
    table,
)

if TYPE_CHECKING:
    from mmsr.engine.bench.encode_bench import EncodeSummary
    from mmsr.engine.bench.engine_bench import BatchSummary, EngineReport
    from mmsr.engine.bench.report import RunnerReport
    from mmsr.engine.bench.retrain_bench import Stage

GB_NOTE = (
    "GB/s: bytes of the output table over the time of a batch; of memory: over the copy rate. "
    "Above 100 % the table lies in a cache."
)


def print_engine(console: Console, report: "EngineReport") -> None:
    """Print one table of all combinations; what is the same in all of them stands above it."""
    print_environment(console, report.environment)
    first = report.runs[0]
    same = [text for name, text in _facts(first).items() if not _varies(report.runs, name)]
    lines = [
        f"{report.threads} threads, memory copied at {report.copy_gb_per_s:.1f} GB/s (read and "
        "written)",
        ", ".join(same),
    ]
    print_lines(console, lines)
    varying = [name for name in _facts(first) if _varies(report.runs, name)]
    headings = (
        "batch",
        *varying,
        "p50 ms",
        "p99 ms",
        "requests/s",
        "pad",
        "run",
        "split",
        "GB/s",
        "of memory",
    )
    rows = [_row(run, varying) for run in report.runs]
    console.print(table("The runner alone, and where its time goes", headings, rows))
    print_lines(console, [GB_NOTE])
    _say_interrupted(console, report.interrupted)


def _row(run: "BatchSummary", varying: Sequence[str]) -> list[str]:
    facts = _facts(run)
    return [
        str(run.batch),
        *(facts[name].rpartition(" ")[2] for name in varying),
        number(run.batch_ms["p50"]),
        number(run.batch_ms["p99"]),
        number(run.requests_per_s, 0),
        *(f"{part:.0%}" for part in run.share.values()),
        number(run.scored_gb_per_s, 1),
        f"{run.share_of_memory:.0%}",
    ]


def _facts(run: "BatchSummary") -> dict[str, str]:
    return {
        "bundle": f"bundle {run.bundle_id}",
        "precision": run.precision,
        "runner": run.runner,
        "items": f"items {run.items:,}",
        "length": f"histories of {run.length}",
        "k": f"k {run.k}",
    }


def _varies(runs: Sequence["BatchSummary"], name: str) -> bool:
    return len({_facts(run)[name] for run in runs}) > 1


def print_encode(console: Console, report: "RunnerReport") -> None:
    """Print one table of all encoders and batch sizes."""
    print_environment(console, report.environment)
    runs: Sequence[EncodeSummary] = report.runs
    facts = {f"{run.encoder}: {run.items}, {run.runner}" for run in runs}
    lines = [f"bundle {report.bundle_id}, {report.findings['threads']} threads", *sorted(facts)]
    print_lines(console, lines)
    headings = ("encoder", "batch", "items/s", "limit: ready tensors", "share", "ms a batch")
    rows = [
        [
            run.encoder,
            str(run.batch),
            short(run.whole_per_s),
            short(run.ready_per_s),
            share(run.share),
            short(run.whole_batch_ms),
        ]
        for run in runs
    ]
    console.print(table("From file or text to feature", headings, rows))
    _say_interrupted(console, report.interrupted)


def print_retrain(console: Console, report: "RunnerReport") -> None:
    """Print the stages of a retrain, and from when to when it went."""
    print_environment(console, report.environment)
    stages: Sequence[Stage] = report.runs
    rows = [[stage.name, short(stage.seconds), share(stage.share)] for stage in stages]
    found = report.findings
    rows.append(["export to first new answer", short(found["export_to_answer_s"]), "100%"])
    title = f"Retrain to live: bundle {report.bundle_id}"
    console.print(table(title, ("stage", "s", "of it"), rows))
    print_lines(
        console,
        [
            f"Training ended {found['train_end']}, the export began "
            f"{found['waited_before_export_s']:,.1f} s later, the first new answer came "
            f"{found['first_answer']}, {found['label_to_answer_s']:.2f} s after the label moved.",
            f"Not converted again: {', '.join(found['reused']) or 'nothing'}.",
        ],
    )


def _say_interrupted(console: Console, interrupted: bool) -> None:
    if interrupted:
        print_lines(console, ["Interrupted: this is what was measured so far."])
