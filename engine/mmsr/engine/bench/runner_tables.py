"""Shows what was measured without a server in a terminal. Decides nothing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from mmsr.engine.bench.tables import (
    bounds,
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
RATIO_TITLE = "Each bundle over A: requests and median batch"
RATIO_HEADINGS = ("requests/s", "95 %", "p50 ms", "95 %")
RATIO_NOTE = (
    "Measured in turn, A B B A; above 1 is faster in requests/s, slower in p50; an interval that "
    "holds 1 shows no difference. Intervals: by drawing twentieths of the time anew."
)
# What a terminal of 80 columns has no room for, by how many facts vary; the report has it.
HIDDEN: Sequence[Sequence[str]] = ((), (), ("pad", "split"), ("pad", "split", "GB/s"))
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
    if report.ratios:
        console.print(table(RATIO_TITLE, *ratio_rows(report)))
        print_lines(console, [RATIO_NOTE])
    print_lines(console, [GB_NOTE])
    _say_interrupted(console, report.interrupted)


def engine_lines(report: "EngineReport") -> list[str]:
    """Return what is the same in all combinations."""
    facts = _facts(report.runs[0]).items()
    return [
        f"{report.threads} threads, memory copied at {report.copy_gb_per_s:.1f} GB/s (read and "
        "written)",
        ", ".join(text for name, text in facts if not _varies(report.runs, name)),
        *(f"{name}: {what}" for name, what in report.sides.items()),
    ]


def ratio_rows(report: "EngineReport") -> Rows:
    """Return the headings and a row for each bundle but A in each combination."""
    rows = []
    for one in report.ratios:
        run = report.runs[one.run]
        facts = [facts_of for name, facts_of in _facts(run).items() if _varies(report.runs, name)]
        per_s, median = one.ratios
        cells = [number(per_s.ratio, 3), bounds(per_s.bounds)]
        cells += [number(median.ratio, 3), bounds(median.bounds)]
        rows.append([str(run.batch), *(text.rpartition(" ")[2] for text in facts), *cells])
    varying = [name for name in _facts(report.runs[0]) if _varies(report.runs, name)]
    return ("batch", *varying, *RATIO_HEADINGS), rows


def engine_rows(runs: Sequence["BatchSummary"]) -> Rows:
    """Return the headings and a row for each combination, with what varies."""
    varying = [name for name in _facts(runs[0]) if _varies(runs, name)]
    hidden = HIDDEN[min(len(varying), len(HIDDEN) - 1)]
    shown = [heading for heading in ENGINE_HEADINGS if heading not in hidden]
    return ("batch", *varying, *shown), [_row(run, varying, shown) for run in runs]


def combination(run: "BatchSummary", runs: Sequence["BatchSummary"]) -> str:
    """Return what tells a run from the others, but for its batch size."""
    return ", ".join(text for name, text in _facts(run).items() if _varies(runs, name))


def _row(run: "BatchSummary", varying: Sequence[str], shown: Sequence[str]) -> list[str]:
    facts = _facts(run)
    cells = {
        "p50 ms": number(run.batch_ms["p50"]),
        "p99 ms": number(run.batch_ms["p99"]),
        "requests/s": number(run.requests_per_s, 0),
        **{stage: f"{part:.0%}" for stage, part in run.share.items()},
        "GB/s": number(run.scored_gb_per_s, 1),
        "of memory": f"{run.share_of_memory:.0%}",
    }
    named = [facts[name].rpartition(" ")[2] for name in varying]
    return [str(run.batch), *named, *(cells[heading] for heading in shown)]


def _facts(run: "BatchSummary") -> dict[str, str]:
    what = {
        "bundle": f"bundle {run.bundle_id}",
        "precision": run.precision,
        "runner": run.runner,
    }
    return {
        **(what if run.side is None else {"bundle": f"bundle {run.side}"}),
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
