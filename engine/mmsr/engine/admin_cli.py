"""`python -m mmsr.engine.admin TARGET COMMAND`: asks a server's Admin service, prints a table."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mmsr.bundle.terminal import run

if TYPE_CHECKING:
    from mmsr.engine.admin_client import AdminClient, CanaryStatus, ServedModel, ServerStatus

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Label = Annotated[str, typer.Option(help="A label; default: the server's own.")]
Version = Annotated[
    str, typer.Argument(help="Id of a bundle in the repository.", metavar="BUNDLE_ID")
]


@app.callback()
def connect(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="HOST:PORT of the Admin service (--admin-port).")],
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS.")] = False,
    root_certificates: Annotated[
        Path | None, typer.Option(help="PEM file of whom to trust; implies --tls.")
    ] = None,
    client_certificate: Annotated[
        Path | None, typer.Option(help="PEM file of who calls; with --client-key, implies --tls.")
    ] = None,
    client_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    token: Annotated[
        str | None, typer.Option(envvar="MMSR_ADMIN_TOKEN", help="Bearer token, if it wants one.")
    ] = None,
) -> None:
    """See and control a running mmsr-serve."""
    from mmsr.engine.admin_client import AdminClient
    from mmsr.engine.client_connection import Connection
    from mmsr.engine.target import check_target

    check_target(target)
    connection = Connection(
        tls=tls,
        root_certificates=root_certificates,
        client_certificate=client_certificate,
        client_key=client_key,
        token=token,
    )
    context.obj = context.with_resource(AdminClient(target, connection))


@app.command()
def status(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what is served and how it goes; exit code 1 unless it serves."""
    client: AdminClient = context.obj
    found = client.status()
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        Console().print(table(found.models))
        typer.echo(facts(found))
        for model in found.models:
            typer.echo(failure(model), nl=False)
        typer.echo(trial(found.canary), nl=False)
    if found.state != "serving":
        raise typer.Exit(1)


@app.command()
def load(context: typer.Context, model_version: Version, label: Label = "") -> None:
    """Serve a bundle under a label; the repository's label stays where it is."""
    client: AdminClient = context.obj
    model, took_ms = client.load(model_version, label)
    typer.echo(f"{model.label} answers with {model.model_version}, after {took_ms / 1e3:.1f} s")


@app.command()
def promote(context: typer.Context, model_version: Version, label: Label = "") -> None:
    """Serve a bundle under a label, then move the repository's label to it."""
    client: AdminClient = context.obj
    model = client.promote(model_version, label)
    typer.echo(f"{model.label} is {model.model_version}")


@app.command()
def rollback(context: typer.Context, label: Label = "") -> None:
    """Serve the bundle that a label named before, then move the label back to it."""
    client: AdminClient = context.obj
    model = client.roll_back(label)
    typer.echo(f"{model.label} is {model.model_version}")


@app.command("log-level")
def log_level(
    context: typer.Context,
    level: Annotated[str, typer.Argument(help="DEBUG, INFO, WARNING or ERROR.")],
) -> None:
    """Change how much is logged until the server ends."""
    client: AdminClient = context.obj
    typer.echo(f"log level {level}, was {client.set_log_level(level)}")


@app.command()
def drain(context: typer.Context) -> None:
    """Begin to stop the server, as SIGTERM does."""
    client: AdminClient = context.obj
    client.drain()
    typer.echo("the server drains; it ends when what is under way is answered")


def table(models: "tuple[ServedModel, ...]") -> Table:
    """Return one column a label, so that it fits where few are served."""
    shown = Table("label", box=SIMPLE_HEAD)
    for model in models:
        shown.add_column(model.label, no_wrap=True)
    for name, values in (
        ("bundle", [model.model_version or "none" for model in models]),
        ("loaded", [model.loaded_at for model in models]),
        ("runner", [model.runner for model in models]),
        ("items", [f"{model.items:,}" for model in models]),
        ("live items", [f"{model.live_items:,}" for model in models]),
        ("spare rows", [f"{model.spare_rows:,}" for model in models]),
        ("queued", [f"{model.queued:,}" for model in models]),
        ("answered", [f"{model.answered:,}" for model in models]),
        ("refused", [f"{model.refused:,}" for model in models]),
    ):
        shown.add_row(name, *values)
    return shown


def facts(status: "ServerStatus") -> str:
    """Return one line about the process."""
    return (
        f"{status.state}, version {status.version}, up {duration(status.uptime_s)}, default label "
        f"{status.default_label}, catalogue version {status.catalogue_version}, "
        f"{status.memory_bytes / 2**20:,.0f} MiB"
    )


def failure(model: "ServedModel") -> str:
    """Return a line about the last load that failed, or nothing."""
    if model.failed_load is None:
        return ""
    failed = model.failed_load
    return f"{model.label}: {failed.model_version} failed at {failed.at}: {failed.reason}\n"


def trial(canary: "CanaryStatus | None") -> str:
    """Return lines about a canary, or nothing."""
    if canary is None:
        return ""
    lines = [
        f"{canary.label} is a canary, {canary.state}: {canary.percent:g} % of the users, "
        f"{canary.requests:,} requests, {canary.errors:,} failed"
    ]
    if canary.shadow_percent:
        means = f"; overlap {canary.overlap:.3f}, rank-biased {canary.rank_biased_overlap:.3f}"
        lines.append(
            f"shadow of {canary.shadow_percent:g} %: {canary.compared:,} compared, "
            f"{canary.shadow_failed:,} failed, {canary.shadow_dropped:,} dropped"
            f"{means if canary.compared else ''}"
        )
    if canary.rolled_back_reason:
        lines.append(f"at {canary.rolled_back_at}: {canary.rolled_back_reason}")
    return "".join(f"{line}\n" for line in lines)


def duration(seconds: float) -> str:
    """Return a time as a person says it."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def main() -> None:
    """Entry point of `python -m mmsr.engine.admin`."""
    run(app)


if __name__ == "__main__":
    main()
