"""`mmsr-repo`: look into a repository of bundles, move its labels, copy it. Needs no torch."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mmsr.bundle.errors import BundleError, MmsrError
from mmsr.bundle.manifest import load_manifest
from mmsr.bundle.repository import Repository
from mmsr.bundle.terminal import run as run_app

if TYPE_CHECKING:
    from mmsr.export.diff import BundleDiff
    from mmsr.export.transfer import Transfer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

RepositoryPath = Annotated[Path, typer.Argument(help="folder of the repository", metavar="REPO")]
Label = Annotated[str, typer.Option(help="the label to move")]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead")]
Url = Annotated[str, typer.Argument(help="s3://bucket/path, gs://…, file://… or a folder")]
Labels = Annotated[list[str] | None, typer.Option("--label", help="one label; repeat; all if none")]
NDCG = "test.masked.ndcg@10"  # the metric that the list shows
SHOWN_FIRST = "test.masked."
SHOWN_METRICS = 12  # of a comparison; --json has all


@app.callback()
def _main() -> None:
    """List, compare, promote, verify, prune and copy the bundles of a repository."""


@app.command("list")
def list_bundles(repository: RepositoryPath, as_json: Json = False) -> None:
    """Show every bundle with its age, metrics, parity, size and labels, oldest first."""
    from datetime import UTC, datetime

    from mmsr.export.listing import age, list_lines, size

    lines = list_lines(Repository(repository), datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps([asdict(line) for line in lines]))
        return
    table = Table(box=SIMPLE_HEAD)
    for name in ("bundle", "age", "items", "size", "NDCG@10", "overlap@20", "labels"):
        right = name not in ("bundle", "labels")
        justify: Literal["left", "right"] = "right" if right else "left"
        table.add_column(name, no_wrap=name != "labels", justify=justify, overflow="fold")
    for line in lines:
        named = ", ".join(line.labels)
        if line.problem is not None:
            table.add_row(line.bundle_id, age(line.age_s), "damaged", "", "", "", named)
            typer.echo(f"warning: {line.problem}", err=True)
            continue
        table.add_row(
            line.bundle_id,
            age(line.age_s),
            str(line.items),
            size(line.bytes or 0),
            _number(line.metrics.get(NDCG)),
            _number(line.overlap),
            named,
        )
    Console().print(table)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


@app.command()
def promote(
    repository: RepositoryPath,
    bundle_id: Annotated[str, typer.Argument(help="id of a bundle")],
    label: Label = "stable",
) -> None:
    """Point a label at a bundle whose files are as in its manifest."""
    from mmsr.bundle.manifest import verify_files

    repo = Repository(repository)
    with repo.hold(bundle_id) as folder:
        verify_files(folder, repo.manifest(bundle_id))
        repo.promote(bundle_id, label)
    typer.echo(f"{label} is {bundle_id}")


@app.command()
def rollback(repository: RepositoryPath, label: Label = "stable") -> None:
    """Point a label back at the bundle that it named before."""
    typer.echo(f"{label} is {Repository(repository).rollback(label)}")


@app.command()
def history(
    repository: RepositoryPath,
    label: Annotated[str, typer.Argument(help="a label")],
    as_json: Json = False,
) -> None:
    """Show what a label has named since when, the present bundle last.

    A reason stands where a server moved the label by itself: it has rolled a canary back.
    """
    moves = Repository(repository).history(label)
    if as_json:
        typer.echo(json.dumps([asdict(move) for move in moves]))
        return
    table = Table(box=SIMPLE_HEAD)
    for name in ("since", "bundle"):
        table.add_column(name, no_wrap=True)
    table.add_column("reason", overflow="fold")
    for move in moves:
        table.add_row(move.since, move.bundle_id, move.reason or "")
    Console().print(table)


@app.command()
def verify(
    repository: RepositoryPath,
    bundle_id: Annotated[str | None, typer.Argument(help="one bundle; default: all")] = None,
    run: Annotated[
        Path | None, typer.Option(help="run that it was made from: the whole gate once more")
    ] = None,
) -> None:
    """Hash every file again and compare the answers to the probe set with PyTorch's.

    With --run everything that mmsr-export compared is compared again with the checkpoint, which
    needs PyTorch. Exit code 1 if a bundle is not in order; the others are looked at all the same.
    """
    if run is not None and bundle_id is None:
        raise typer.BadParameter("a run belongs to one bundle: name it", param_hint="--run")
    repo = Repository(repository)
    problems = []
    for name in [bundle_id] if bundle_id else repo.ids():
        try:
            with repo.hold(name) as folder:
                typer.echo(f"{name}: files as in the manifest; {_verified(folder, run)}")
        except MmsrError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise BundleError("\n       ".join(problems))


def _verified(folder: Path, run: Path | None) -> str:
    """Return what was found of a bundle that is in order."""
    if run is not None:
        return _gate_again(folder, run)
    from mmsr.engine.probe import prove
    from mmsr.export.provable import open_to_prove

    model = open_to_prove(folder, threads=1)
    try:
        report = prove(model)
    finally:
        model.close()
    report.check()
    return (
        f"{report.users} probes, overlap@{report.k} {report.overlap:.4f}, with filters "
        f"{report.filtered.overlap:.4f}, largest score error {report.max_error:.1e}"
    )


def _gate_again(folder: Path, run: Path) -> str:
    import torch

    from mmsr.bundle.manifest import verify_files
    from mmsr.export.gate import measure
    from mmsr.export.onnx_file import ExportError
    from mmsr.training.run import open_run

    verify_files(folder, load_manifest(folder))
    try:
        report = measure(open_run(run, None, torch.device("cpu")), folder).report
        report.check()
    except ExportError as error:
        raise of_published(error) from None
    found, held_out = report.sequence, report.held_out
    return (
        f"all {report.stored.table_rows} rows and {sum(report.stored.initializers.values())} "
        f"tensors as in the checkpoint; {found.users} histories, overlap@{found.k} "
        f"{found.overlap:.4f}, NDCG@10 {held_out.ndcg:.4f} (PyTorch {held_out.reference:.4f})"
    )


def of_published(error: MmsrError) -> BundleError:
    """Return an error of the gate as it concerns a bundle that is published already."""
    from mmsr.export.refusal import PUBLISHED_NOTHING

    return BundleError(str(error).partition(f"; {PUBLISHED_NOTHING}")[0])


@app.command()
def prune(
    repository: RepositoryPath,
    keep: Annotated[int, typer.Option(help="how many of the newest bundles stay")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    as_json: Json = False,
) -> None:
    """Remove old bundles, but none that a label names or named last, and none in use."""
    from mmsr.export.listing import size
    from mmsr.export.prune import prune as remove

    report = remove(Repository(repository), keep, dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, **asdict(report)}))
        return
    for name, reason in report.kept.items():
        typer.echo(f"kept    {name}  {reason}")
    for name in report.removed:
        typer.echo(f"{'old' if dry_run else 'removed':<7} {name}")
    count = len(report.removed)
    bundles = f"{count} bundle{'' if count == 1 else 's'}"
    would = "would free" if dry_run else "freed"
    typer.echo(f"{bundles} of {count + len(report.kept)}, {would} {size(report.freed_bytes)}")


@app.command()
def diff(
    repository: RepositoryPath,
    a: Annotated[str, typer.Argument(help="id of a bundle, or a label")],
    b: Annotated[str, typer.Argument(help="what it is compared with")],
    as_json: Json = False,
) -> None:
    """Compare metrics, catalogues and what A's probe users would be recommended."""
    from contextlib import ExitStack

    from mmsr.export.diff import diff_bundles

    repo = Repository(repository)
    with ExitStack() as stack, Console(stderr=True, quiet=as_json).status("comparing …"):
        first, second = (stack.enter_context(repo.hold(repo.find(name).name)) for name in (a, b))
        found = diff_bundles(first, second)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    _print_diff(Console(), found)


def _print_diff(console: Console, found: "BundleDiff") -> None:
    table = Table("metric", box=SIMPLE_HEAD)
    for name in (found.a, found.b, "change"):
        table.add_column(name, justify="right")
    first = sorted(found.metrics, key=lambda name: (not name.startswith(SHOWN_FIRST), name))
    for name in first[:SHOWN_METRICS]:
        x, y = found.metrics[name]
        change = "–" if x is None or y is None else f"{y - x:+.4f}"
        table.add_row(name, _number(x), _number(y), change)
    more = len(found.metrics) - SHOWN_METRICS
    if found.metrics:
        console.print(table)
    else:
        typer.echo("neither bundle has metrics: mmsr-train evaluate measures them")
    if more > 0:
        typer.echo(f"and {more} more metrics with --json")
    items, top = found.catalogue, found.top_k
    typer.echo(f"catalogue: {items.items_a} items, then {items.items_b}")
    for what, count, examples in (
        ("added", items.added, items.added_examples),
        ("removed", items.removed, items.removed_examples),
        ("changed", items.changed_rows, items.changed_examples),
    ):
        dots = ", …" if count > len(examples) else ""
        named = f"  ({', '.join(examples)}{dots})" if examples else ""
        typer.echo(f"  {what:<8} {count}{named}")
    fields = ", ".join(f"{name} of {count}" for name, count in items.changed.items() if count)
    typer.echo(f"  differing fields: {fields or 'none'}")
    skipped = f" ({top.skipped} more know no item of {found.b})" if top.skipped else ""
    typer.echo(f"best {top.k} of {top.users} probe users of {found.a}{skipped}:")
    typer.echo(
        f"  overlap@{top.k} {top.overlap:.4f} (10th percentile {top.overlap_p10:.2f}), rank-biased "
        f"{top.rank_biased_overlap:.4f}, same first item {top.same_first:.1%}"
    )


@app.command()
def push(repository: RepositoryPath, url: Url, label: Labels = None, as_json: Json = False) -> None:
    """Copy labels, and the bundles that they name now and named last, to object storage.

    Files that are there already are not copied again. The storage needs its fsspec package: s3fs
    for s3://, gcsfs for gs://, adlfs for abfs://.
    """
    from mmsr.export.object_store import open_store
    from mmsr.export.transfer import push as copy

    with Console(stderr=True, quiet=as_json).status("connecting …") as status:
        done = copy(
            Repository(repository), open_store(url), label or [], _tell_copied(status.update)
        )
    _print_transfer(done, "pushed", as_json)


@app.command()
def pull(url: Url, repository: RepositoryPath, label: Labels = None, as_json: Json = False) -> None:
    """Copy labels and their bundles from object storage; every file is hashed on arrival."""
    from mmsr.export.object_store import open_store
    from mmsr.export.transfer import pull as copy

    with Console(stderr=True, quiet=as_json).status("connecting …") as status:
        done = copy(
            Repository(repository), open_store(url), label or [], _tell_copied(status.update)
        )
    _print_transfer(done, "pulled", as_json)


def _tell_copied(update: Any) -> Any:
    from mmsr.export.listing import size

    return lambda what, count: update(f"{what}, {size(count)} …")


def _print_transfer(done: "Transfer", verb: str, as_json: bool) -> None:
    from mmsr.export.listing import size

    if as_json:
        typer.echo(json.dumps(asdict(done)))
        return
    for name, bundle_id in done.labels.items():
        typer.echo(f"{name} is {bundle_id}")
    typer.echo(
        f"{verb} {done.copied_files} files, {size(done.copied_bytes)}; "
        f"{done.present_files} were there already"
    )


@app.command()
def triton(
    repository: RepositoryPath,
    bundle: Annotated[str, typer.Argument(help="id of a bundle, or a label")],
    target: Annotated[Path, typer.Argument(help="Triton's model repository", metavar="DIR")],
) -> None:
    """Write a bundle as a Triton model repository; a newer one becomes the next version."""
    from mmsr.export.triton import write_triton

    repo = Repository(repository)
    with (
        repo.hold(repo.find(bundle).name) as folder,
        Console(stderr=True).status("writing and comparing …"),
    ):
        models = write_triton(folder, target)
    for model in models:
        state = "written" if model.new else "as it was"
        typer.echo(f"{target / model.name}: version {model.version} {state}")


@app.command()
def engines(
    repository: RepositoryPath,
    bundle: Annotated[str, typer.Argument(help="id of a bundle, or a label", metavar="ID")],
    precision: Annotated[
        Literal["fp32", "fp16"], typer.Option(help="of the engines; their item tables too")
    ] = "fp16",
    flavour: Annotated[
        Literal["tensorrt", "tensorrt-rtx"] | None,
        typer.Option(help="default: tensorrt where there is a GPU, else tensorrt-rtx"),
    ] = None,
    graph: Annotated[list[str] | None, typer.Option(help="one graph; repeat; all if none")] = None,
    batch: Annotated[
        list[int] | None, typer.Option(help="a batch bucket of the sequence graph; repeat", min=1)
    ] = None,
) -> None:
    """Build a bundle's TensorRT engines beside it, on the machine that will serve it."""
    from mmsr.export.tensorrt.engines_report import build_and_print

    repo = Repository(repository)
    with repo.hold(repo.find(bundle).name) as folder:
        build_and_print(repo, folder.name, (flavour, precision), (graph, batch))


def main() -> None:
    """Entry point of `mmsr-repo`."""
    run_app(app)
