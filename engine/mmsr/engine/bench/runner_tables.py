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

Rows = tuple[Sequence[str], list[list[str]]]  # headings, cells
ENGINE_TITLE = "The runner alone, and where its time goes"
ENGINE_HEADINGS = ("p50 ms", "p99 ms", "requests/s", "pad", "run", "split", "GB/s", "of memory")
WHOLE_WAY = "export to first new answer"
ENCODE_TITLE = "From file or text to feature"
GB_NOTE = (
    "GB/s: bytes of the output table over the time of a batch; of memory: over the copy rate. "
    "Above 100 % the table lies in a cache."
)


def print_engine(console: Console, report: "EngineReport") -> None:
    """Print one table of all combinations; what is the same in all of them stands above it."""
    print_environment(console, report.environment)
    print_lines(console, engine_lines(report))
    console.print(table(ENGINE_TITLE, *engine_rows(report.runs)))
    print_lines(console, [GB_NOTE])
    _say_interrupted(console, report.interrupted)


def engine_lines(report: "EngineReport") -> list[str]:
    """Return what is the same in all combinations."""
    facts = _facts(report.runs[0]).items()
    return [
        f"{report.threads} threads, memory copied at {report.copy_gb_per_s:.1f} GB/s (read and "
        "written)",
        ", ".join(text for name, text in facts if not _varies(report.runs, name)),
    ]


def engine_rows(runs: Sequence["BatchSummary"]) -> Rows:
    """Return the headings and a row for each combination, with what varies."""
    varying = [name for name in _facts(runs[0]) if _varies(runs, name)]
    headings = ("batch", *varying, *ENGINE_HEADINGS)
    return headings, [_row(run, varying) for run in runs]


def combination(run: "BatchSummary", runs: Sequence["BatchSummary"]) -> str:
    """Return what tells a run from the others, but for its batch size."""
    return ", ".join(text for name, text in _facts(run).items() if _varies(runs, name))


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
    print_lines(console, encode_lines(report))
    console.print(table(ENCODE_TITLE, *encode_rows(report.runs)))
    _say_interrupted(console, report.interrupted)


def encode_lines(report: "RunnerReport") -> list[str]:
    """Return what was encoded, and by what."""
    facts = {f"{run.encoder}: {run.items}, {run.runner}" for run in report.runs}
    return [f"bundle {report.bundle_id}, {report.findings['threads']} threads", *sorted(facts)]


def encode_rows(runs: Sequence["EncodeSummary"]) -> Rows:
    """Return the headings and a row for each encoder and batch size."""
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
    return headings, rows


def print_retrain(console: Console, report: "RunnerReport") -> None:
    """Print the stages of a retrain, and from when to when it went."""
    print_environment(console, report.environment)
    stages: Sequence[Stage] = report.runs
    rows = [[stage.name, short(stage.seconds), share(stage.share)] for stage in stages]
    rows.append([WHOLE_WAY, short(report.findings["export_to_answer_s"]), "100%"])
    title = f"Retrain to live: bundle {report.bundle_id}"
    console.print(table(title, ("stage", "s", "of it"), rows))
    print_lines(console, retrain_lines(report))


def retrain_lines(report: "RunnerReport") -> list[str]:
    """Return from when to when a retrain went."""
    found = report.findings
    return [
        f"Training ended {found['train_end']}, the export began "
        f"{found['waited_before_export_s']:,.1f} s later, the first new answer came "
        f"{found['first_answer']}, {found['label_to_answer_s']:.2f} s after the label moved.",
        f"Not converted again: {', '.join(found['reused']) or 'nothing'}.",
    ]


def _say_interrupted(console: Console, interrupted: bool) -> None:
    if interrupted:
        print_lines(console, ["Interrupted: this is what was measured so far."])
