"""`mmsr-export`: a trained run becomes a proven bundle in a repository.

Exit codes: 0 published; 1 any other error; 2 wrong usage; 3 too low a quality (against the live
bundle or popularity); 4 not what PyTorch answers. 3 and 4 publish nothing, only 0 moves the label.
What was measured is shown, or printed by `--json`, in either case.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mmsr.bundle.terminal import KNOWN
from mmsr.bundle.terminal import run as run_app
from mmsr.export.refusal import RefusedError, failure_json
from mmsr.export.report import file_rows, parity_rows, precision_line, quality_rows

if TYPE_CHECKING:
    from mmsr.export.build import Proven

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
    max_drop: Annotated[
        float,
        typer.Option(help="percent that NDCG@10 may be below the live bundle's", min=0, max=100),
    ] = 5.0,
    accept_drop: Annotated[
        bool, typer.Option("--accept-drop", help="publish whatever the quality is; recorded")
    ] = False,
    triton: Annotated[
        Path | None, typer.Option(help="also write it as a Triton model repository, to this folder")
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8", "auto"],
        typer.Option(help="of the sequence graph; auto: the fastest here that the gate lets pass"),
    ] = "fp32",
    text_precision: Annotated[
        Literal["fp32", "int8"], typer.Option(help="of the text encoder; int8 is for CPUs")
    ] = "fp32",
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="convert and measure anew what earlier exports left as well"),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead")] = False,
) -> None:
    """Convert RUN to ONNX, prove that it answers as PyTorch does, publish it and move the label.

    Refused is also what is worse than popularity, or than the live bundle, which the label names
    now: NDCG@10 lower by more than --max-drop and not by chance, or a fifth fewer items or
    interactions.

    Exit codes: 0 published; 1 any other error; 2 wrong usage; 3 too low a quality; 4 not what
    PyTorch answers. 3 and 4 publish nothing; only 0 moves the label.
    """
    plan = {"label": label, "promote": promote, "triton": triton}
    plan |= {"probe": "synthetic" if synthetic_probe else "real", "precision": precision}
    plan["text_precision"] = text_precision
    plan["fresh"] = fresh
    policy = {"max_drop": max_drop / 100, "accept_drop": accept_drop}
    console = Console(stderr=True, quiet=as_json)
    with failure_told(as_json=as_json):
        published = publish(console, (run, data), repository, plan, policy)
    if as_json:
        typer.echo(json.dumps(published.to_json()))
        return
    published.show(Console())


@contextmanager
def failure_told(*, as_json: bool) -> Iterator[None]:
    """Print what is known of an export that fails, before its error is."""
    try:
        yield
    except KNOWN as error:
        if as_json and (told := failure_json(error)) is not None:
            typer.echo(json.dumps(told))
        elif isinstance(error, RefusedError):
            print_measured(Console(), error)
        raise


@dataclass(frozen=True, kw_only=True)
class Published:
    """A bundle in its repository, and how it came there."""

    bundle_id: str
    folder: Path
    label: str
    live: str | None  # the bundle that the label names now
    seconds: dict[str, float]
    proven: "Proven"
    reused: list[str]  # graphs for which nothing was converted
    item_rows: dict[str, Any]  # what `folding.decide` decided
    precision: dict[str, Any]  # what was asked, raced, refused and chosen
    engines: str | None  # why no TensorRT engine can be built here

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "bundle_id": self.bundle_id,
            "path": str(self.folder),
            "label": self.label if self.live == self.bundle_id else None,
            "live": {self.label: self.live},
            "seconds": self.seconds,
            "reused": self.reused,
            "item_rows": self.item_rows,
            "precision": self.precision,
            "tensorrt": self.engines or "installed",
            **self.proven.to_json(),
        }

    def show(self, console: Console) -> None:
        """Print one screen of it, no wider than the console but for paths that are."""
        print_report(console, self.seconds, self.proven)
        if self.reused:
            say(console, f"not converted again: {', '.join(self.reused)}")
        rows = self.item_rows
        form = "hold the attention's queries and keys" if rows["folded"] else "are plain"
        say(console, f"item rows {form}: {rows['columns']} columns; {rows['why']}")
        say(console, precision_line(self.precision))
        skipped = f"skipped, {self.engines}; on a machine with a GPU" if self.engines else "next"
        say(console, f"TensorRT engines: {skipped}:")
        say(console, f"  mmsr-repo engines {self.folder.parents[1]} {self.bundle_id}")
        say(console, f"bundle {self.bundle_id} in {self.folder}")
        say(console, f"live: {live_now(self.label, self.bundle_id, self.live)}")


def live_now(label: str, bundle_id: str, live: str | None) -> str:
    """Return what is said of the bundle that a label names after an export."""
    if live == bundle_id:
        return f"{label} names it now"
    return f"{label} still names {live or 'no bundle'}: no label moved"


def publish(
    console: Console,
    source: tuple[Path, Path | None],
    repository: Path,
    plan: Mapping[str, Any],
    policy: Mapping[str, Any],
) -> Published:
    """Export the run `source` (and where its data lie), telling the stages on `console`."""
    from mmsr.bundle.repository import Repository, check_label

    repo = Repository(repository)
    check_label(plan["label"])  # an hour later would be too late
    repo.require_usable()

    import torch

    from mmsr.export.build import Plan, Stages, publish_run
    from mmsr.export.quality import Policy
    from mmsr.export.tensorrt.flavour import why_absent
    from mmsr.training.run import open_run

    with console.status("opening the run") as status:
        trained = open_run(*source, torch.device("cpu"))
        stages = Stages(tell=lambda name: status.update(f"{name} …"))
        built = Plan(**plan, policy=Policy(**policy))
        bundle_id, proven = publish_run(trained, built, repo, stages)
    provenance = repo.manifest(bundle_id).provenance
    return Published(
        bundle_id=bundle_id,
        folder=repo.path(bundle_id),
        label=built.label,
        live=repo.resolve(built.label).name if built.label in repo.label_names() else None,
        seconds=stages.seconds,
        proven=proven,
        reused=provenance["reused"],
        item_rows=provenance["item_rows"],
        precision=provenance["precision"],
        engines=why_absent(),
    )


def print_report(console: Console, seconds: dict[str, float], proven: "Proven") -> None:
    """Print the stages' times and what both gates measured: one screen."""
    stages = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    say(console, f"stages: {stages}")
    print_measured(console, proven)
    for problem in proven.quality.problems():
        say(console, f"accepted by --accept-drop: {problem}")
    for warning in proven.quality.warnings():
        say(console, f"warning: {warning}")


def print_measured(console: Console, found: "Proven | RefusedError") -> None:
    """Print what the gates measured, as far as they came."""
    rows = [] if found.parity is None else [*parity_rows(found.parity)]
    if isinstance(found, RefusedError) and found.stored is not None:
        rows += file_rows(found.stored)
    rows += [] if found.quality is None else quality_rows(found.quality)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("gate", "compared", "measured (NDCG: this / other)"):
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    if rows:
        console.print(table, highlight=False)


def say(console: Console, text: str) -> None:
    """Print a paragraph, broken between words; a path stays whole, so that it can be copied."""
    lines = wrap(
        text,
        console.width,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    """Entry point of `mmsr-export`."""
    run_app(app)
