"""What a model keeps of a modality's gain when items lack it at test time, over several seeds.

    python training/benchmarks/missing_content.py --run RUN0 --run RUN1 --against BARE0 \
        --against BARE1 --missing text=0.5,1.0 --out training/results/NAME

`--against` are runs that were trained without the modality, by the same data and split. Each user's
NDCG@10 is averaged over the seeds before anything is compared. Writes NAME.json and NAME.md.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from mmsr.bundle.files import write_json
from mmsr.bundle.terminal import run as run_app
from mmsr.training.evaluate_cli import parse_missing
from mmsr.training.machine import describe_machine
from mmsr.training.missing import PARTS, Lack, compared, require_comparable, require_read, user_ndcg
from mmsr.training.run import TrainedRun, commits, open_run, provenance
from mmsr.training.split import Part
from mmsr.training.statistics import (
    Floats,
    average_over_seeds,
    mean_and_deviation,
    paired_difference,
    signed_interval,
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Values = dict[Part, list[Floats]]  # NDCG@10 of every user, per seed


@app.command()
def main(
    run: Annotated[list[Path], typer.Option(help="run of the whole model; once a seed")],
    against: Annotated[list[Path], typer.Option(help="run without the modality; once a seed")],
    missing: Annotated[list[str], typer.Option(help="such as text=0.5,1.0")],
    out: Annotated[Path, typer.Option(help="the report, without its ending")],
    data: Annotated[Path | None, typer.Option(help="the runs' data, if they were moved")] = None,
) -> None:
    """Measure and write the report."""
    asked = dict(parse_missing(text) for text in missing)
    lacks = [Lack(modality=m, share=share) for m, shares in asked.items() for share in shares]
    runs, bare = ([open_run(path, data) for path in paths] for paths in (run, against))
    for other in (*runs[1:], *bare):
        require_comparable(runs[0], other)
    for one in runs:
        require_read(one, asked)
    whole, without = values_of(runs), values_of(bare)
    rows = [row_of(lack, values_of(runs, lack), whole, without) for lack in lacks]
    whole_E, without_E = (average_over_seeds(values["test"]) for values in (whole, without))
    found = {
        "command": shlex.join(["python", *sys.argv]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": provenance()["commit"],
        "trained_at": [commits(one.info.provenance) for one in (*runs, *bare)],
        "machine": asdict(describe_machine()),
        "data": {"hash": runs[0].info.data_hash, "users": len(whole["test"][0])},
        "whole": summary(whole),
        "without": summary(without),
        "gain": paired_difference(whole_E, without_E),
        "cases": rows,
    }
    write_json(out.with_suffix(".json"), found)
    out.with_suffix(".md").write_text(markdown(found), encoding="utf-8")
    typer.echo(markdown(found))


def values_of(runs: Sequence[TrainedRun], lack: Lack | None = None) -> Values:
    """Return every user's NDCG@10 of every run."""
    return {part: [user_ndcg(one, part, lack) for one in runs] for part in PARTS}


def summary(values: Values) -> dict[str, Any]:
    """Return mean and sample deviation over the seeds, and each seed's value."""
    found: dict[str, Any] = {}
    for part, seeds in values.items():
        each = [float(value_E.mean()) for value_E in seeds]
        mean, deviation = mean_and_deviation(each)
        found[part] = {"mean": mean, "deviation": deviation, "seeds": each}
    return found


def row_of(lack: Lack, values: Values, whole: Values, without: Values) -> dict[str, Any]:
    """Return a case beside the model that lacks nothing and the one that never had it."""
    test_E, whole_E, without_E = (average_over_seeds(v["test"]) for v in (values, whole, without))
    return {
        "modality": lack.modality,
        "share": lack.share,
        **summary(values),
        **compared(test_E, whole_E, without_E),
    }


def markdown(found: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    machine, gain = found["machine"], found["gain"]
    lines = [
        "| items lacking | validation | test | test minus whole [95%] | kept of the gain "
        "| minus half of the gain [95%] |",
        "|---|--:|--:|--:|--:|--:|",
        _row("nothing", found["whole"], "–", "100 %", "–"),
    ]
    for case in found["cases"]:
        kept = case["gain_kept"]
        lines.append(
            _row(
                f"{case['modality']} {case['share']:.0%}",
                case,
                signed_interval(case["to_whole"]),
                "no gain" if kept is None else f"{kept:.0%}",
                signed_interval(case["past_half"]),
            )
        )
    lines.append(_row("trained without", found["without"], signed_interval(gain), "0 %", "–"))
    return "\n".join(
        [
            f"Date: {found['time'][:10]}. Commit: {found['commit']}. Machine: "
            f"{machine['processor']}, threads: {machine['threads']}, {machine['memory_gib']} GiB. "
            f"Data: {found['data']['users']:,} users, hash `{found['data']['hash'][:12]}`.",
            "",
            f"```sh\n{found['command']}\n```",
            "",
            "NDCG@10, history masked; mean ± sample s.d. over the seeds; intervals: paired",
            "bootstrap of the users, each user's values averaged over the seeds first.",
            "",
            *lines,
            "",
        ]
    )


def _row(name: str, values: dict[str, Any], *cells: str) -> str:
    parts = [_over_seeds(values[part]) for part in PARTS]
    return f"| {' | '.join([name, *parts, *cells])} |"


def _over_seeds(value: dict[str, Any]) -> str:
    deviation = "" if value["deviation"] is None else f" ±{value['deviation']:.4f}"
    return f"{value['mean']:.4f}{deviation}"


if __name__ == "__main__":
    run_app(app)
