"""`mmsr-export`: a trained run becomes a proven bundle in a repository."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mmsr.bundle.terminal import run as run_app

if TYPE_CHECKING:
    from mmsr.export.gate import GateReport

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="folder of a training run", metavar="RUN")],
    repository: Annotated[Path, typer.Option(help="made if it is not there")],
    label: Annotated[str, typer.Option(help="label that will name the bundle")] = "stable",
    promote: Annotated[
        bool, typer.Option("--promote/--no-promote", help="move the label, or only publish")
    ] = True,
    data: Annotated[Path | None, typer.Option(help="the run's data, if they were moved")] = None,
    synthetic_probe: Annotated[
        bool, typer.Option(help="made-up histories in the bundle's probe set, not real ones")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead")] = False,
) -> None:
    """Convert RUN to ONNX, prove that it answers as PyTorch does, publish it and move the label.

    Exit code 0: published. 1: nothing was published; the message says why.
    """
    from mmsr.bundle.repository import Repository, check_label

    check_label(label)  # an hour later would be too late

    import torch

    from mmsr.export.build import Stages, build_bundle
    from mmsr.export.tables import ProbeKind
    from mmsr.training.run import open_run

    console = Console(stderr=True, quiet=as_json)
    repo = Repository(repository)
    with console.status("opening the run") as status:
        trained = open_run(run, data, torch.device("cpu"))
        stages = Stages(tell=lambda name: status.update(f"{name} …"))
        with repo.stage() as staged:
            probe: ProbeKind = "synthetic" if synthetic_probe else "real"
            report = build_bundle(trained, staged, probe, repo, stages)
            with stages.stage("publish"):
                bundle_id = repo.publish(staged)
        if promote:
            repo.promote(bundle_id, label)
    if as_json:
        answer = {
            "bundle_id": bundle_id,
            "path": str(repo.path(bundle_id)),
            "label": label if promote else None,
            "seconds": stages.seconds,
            "parity": report.to_json(),
        }
        typer.echo(json.dumps(answer))
        return
    _print(Console(), stages.seconds, report)
    now = f"; {label} names it now" if promote else "; no label moved"
    typer.echo(f"bundle {bundle_id} in {repo.path(bundle_id)}{now}")


def _print(console: Console, seconds: dict[str, float], report: "GateReport") -> None:
    stages = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    console.print(f"stages: {stages}", highlight=False)
    table = Table("graph", "compared with PyTorch", "measured", box=SIMPLE_HEAD)
    sequence = report.sequence
    table.add_row(
        "sequence",
        f"{sequence.users} histories, best {sequence.k}",
        f"overlap {sequence.overlap:.4f}, score error {sequence.max_error:.1e}, "
        f"NDCG@10 {sequence.ndcg:.4f} / {sequence.ndcg_reference:.4f}",
    )
    table.add_row("item", f"{report.item_items} rows", f"error {report.item_max_error:.1e}")
    absences = ", ".join(f"{name} {error:.1e}" for name, error in report.without.items())
    table.add_row("item", "content taken away", absences)
    for name, items, cosine in (
        ("image_encoder", report.image_items, report.image_min_cosine),
        ("text_encoder", report.text_items, report.text_min_cosine),
    ):
        if cosine is not None:
            table.add_row(name, f"{items} items' features", f"least cosine {cosine:.7f}")
    console.print(table)


def main() -> None:
    """Entry point of `mmsr-export`."""
    run_app(app)
