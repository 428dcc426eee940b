"""`mmsr-repo`: look into a repository of bundles and move its labels. Needs no torch."""

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mmsr.bundle.errors import BundleError, MmsrError
from mmsr.bundle.repository import Repository
from mmsr.bundle.terminal import run

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

RepositoryPath = Annotated[Path, typer.Argument(help="folder of the repository", metavar="REPO")]
Label = Annotated[str, typer.Option(help="the label to move")]


@app.callback()
def _main() -> None:
    """List, promote, roll back and verify the bundles of a repository."""


@app.command("list")
def list_bundles(repository: RepositoryPath) -> None:
    """Show every bundle with its size, metrics and labels, oldest first."""
    from datetime import UTC, datetime

    from mmsr.bundle.manifest import MANIFEST

    repo = Repository(repository)
    labels: dict[str, list[str]] = {}
    for name in repo.label_names():
        labels.setdefault(repo.history(name)[-1].bundle_id, []).append(name)
    table = Table(box=SIMPLE_HEAD)
    for name in ("bundle", "made (UTC)", "items", "size", "NDCG@10", "labels"):
        table.add_column(name, no_wrap=name != "labels")
    for bundle_id in repo.ids():
        try:
            manifest = repo.manifest(bundle_id)
        except BundleError as error:
            table.add_row(bundle_id, "damaged", "", "", "", ", ".join(labels.get(bundle_id, [])))
            typer.echo(f"warning: {error}", err=True)
            continue
        made = (repo.path(bundle_id) / MANIFEST).stat().st_mtime
        size = sum(entry.bytes for entry in manifest.files.values()) / 2**20
        ndcg = manifest.metrics.get("test.masked.ndcg@10")
        table.add_row(
            bundle_id,
            datetime.fromtimestamp(made, UTC).strftime("%Y-%m-%d %H:%M"),
            str(manifest.tables.items),
            f"{size:.0f} MiB",
            "–" if ndcg is None else f"{ndcg:.4f}",
            ", ".join(labels.get(bundle_id, [])),
        )
    Console().print(table)


@app.command()
def promote(
    repository: RepositoryPath,
    bundle_id: Annotated[str, typer.Argument(help="id of a bundle")],
    label: Label = "stable",
) -> None:
    """Point a label at a bundle whose files are as in its manifest."""
    from mmsr.bundle.manifest import verify_files

    repo = Repository(repository)
    verify_files(repo.path(bundle_id), repo.manifest(bundle_id))
    repo.promote(bundle_id, label)
    typer.echo(f"{label} is {bundle_id}")


@app.command()
def rollback(repository: RepositoryPath, label: Label = "stable") -> None:
    """Point a label back at the bundle that it named before."""
    typer.echo(f"{label} is {Repository(repository).rollback(label)}")


@app.command()
def verify(
    repository: RepositoryPath,
    bundle_id: Annotated[str | None, typer.Argument(help="one bundle; default: all")] = None,
) -> None:
    """Hash every file again and compare the answers to the probe set with PyTorch's.

    Exit code 1 if a bundle is not in order; the others are looked at all the same.
    """
    from mmsr.engine.probe import run_probe

    repo = Repository(repository)
    problems = []
    for name in [bundle_id] if bundle_id else repo.ids():
        try:
            report = run_probe(repo.path(name))
            report.check()
        except MmsrError as error:
            problems.append(f"{name}: {error}")
            continue
        typer.echo(
            f"{name}: files as in the manifest; {report.users} probes, overlap@{report.k} "
            f"{report.overlap:.4f}, with filters {report.filtered.overlap:.4f}, largest score "
            f"error {report.max_error:.1e}"
        )
    if problems:
        raise BundleError("\n       ".join(problems))


def main() -> None:
    """Entry point of `mmsr-repo`."""
    run(app)
