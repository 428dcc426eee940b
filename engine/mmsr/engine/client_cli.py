"""`python -m mmsr.engine.client`: asks a server once and prints a table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmsr.bundle.terminal import run

if TYPE_CHECKING:
    from mmsr.engine.client import Recommendations, RecommenderClient

SILENT_S = 1.0
NAMED_UNKNOWN = 5  # ids
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def recommend(
    target: Annotated[str, typer.Argument(help="HOST:PORT of mmsr-serve.")],
    history: Annotated[
        list[str] | None, typer.Option(help="An item id; repeat it, oldest first.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many items.", min=1, max=1000)] = 10,
    exclude: Annotated[
        list[str] | None, typer.Option(help="An item id not to be returned; may be repeated.")
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="Only these item ids; may be repeated.")
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(help="Only items of these categories; may be repeated.")
    ] = None,
    without_category: Annotated[
        list[str] | None, typer.Option(help="No items of these categories; may be repeated.")
    ] = None,
    unavailable: Annotated[
        bool, typer.Option("--unavailable", help="Also items that are not available.")
    ] = False,
    label: Annotated[str, typer.Option(help="Which model; the server's default if empty.")] = "",
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS.")] = False,
    root_certificates: Annotated[
        Path | None, typer.Option(help="PEM file of whom to trust; implies --tls.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File that holds the bearer token.")
    ] = None,
    repository: Annotated[
        Path | None, typer.Option(help="The server's repository: titles are read from it.")
    ] = None,
    deadline_ms: Annotated[
        float, typer.Option(help="How long the answer may take.", min=1)
    ] = 5000.0,
    wait_s: Annotated[
        float, typer.Option(help="How long to wait for a server that is still starting.", min=0)
    ] = 60.0,
) -> None:
    """Ask for recommendations after a history and print them."""
    with opened(target, tls, root_certificates, token_file) as client:
        wait(client, target, wait_s)
        answer = client.recommend(
            history or [],
            k,
            deadline_ms=deadline_ms,
            excluded_ids=exclude or [],
            allowed_ids=allow,
            include_categories=category or [],
            exclude_categories=without_category or [],
            only_available=not unavailable,
            label=label,
        )
    known = {} if repository is None else titles(repository, answer.model_version)
    if history and known:
        typer.echo("after: " + " · ".join(known.get(item_id) or item_id for item_id in history))
    typer.echo(table(answer, known))
    if hint := joined_hint(answer):
        typer.echo(hint, err=True)


def opened(
    target: str, tls: bool, root_certificates: Path | None, token_file: Path | None
) -> "RecommenderClient":
    """Return a client of the server that is named."""
    from mmsr.engine.client import Connection, RecommenderClient
    from mmsr.engine.target import check_target

    check_target(target)
    token = None if token_file is None else read_token(token_file)
    connection = Connection(tls=tls, root_certificates=root_certificates, token=token)
    return RecommenderClient(target, connection=connection)


def read_token(path: Path) -> str:
    """Return what a file holds, without the end of its line."""
    from mmsr.engine.errors import ConfigError

    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {path} cannot be read: {error}") from None


def wait(client: "RecommenderClient", target: str, wait_s: float) -> None:
    """Wait for a server that is still starting, and say so if it takes longer than a moment."""
    from mmsr.engine.errors import Unavailable

    try:
        client.wait_until_serving(min(wait_s, SILENT_S))
    except Unavailable:
        if wait_s <= SILENT_S:
            raise
        typer.echo(f"{target} does not serve yet; waiting up to {wait_s:g} s …", err=True)
        client.wait_until_serving(wait_s)


def titles(repository: Path, bundle_id: str) -> dict[str, str]:
    """Return the title of every item of the bundle that has one."""
    from mmsr.bundle.catalogue import load_catalogue
    from mmsr.bundle.repository import Repository

    catalogue = load_catalogue(Repository(repository).path(bundle_id))
    pairs = zip(catalogue.item_ids, catalogue.titles, strict=True)
    return {item_id: title for item_id, title in pairs if title}


def table(answer: "Recommendations", known: dict[str, str]) -> str:
    """Return rank, id, title and score as aligned columns, and a line about the call."""
    header = ("rank", "id", "title", "score")
    lines = [
        (str(rank), item_id, known.get(item_id, "-"), f"{score:.3f}")
        for rank, (item_id, score) in enumerate(answer.items, start=1)
    ]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rows = [
        f"{rank:>{widths[0]}}  {item_id:<{widths[1]}}  {title:<{widths[2]}}  {score:>{widths[3]}}"
        for rank, item_id, title, score in (header, *lines)
    ]
    return "\n".join([*rows, facts(answer)])


def facts(answer: "Recommendations") -> str:
    """Return one line about who answered and how long it took."""
    if answer.fallback:
        how = f"no known item in the history: by {answer.fallback} (score: interactions)"
    else:
        how = (
            f"queue {answer.queue_us / 1e3:.2f} ms, compute {answer.compute_us / 1e3:.2f} ms, "
            f"batch of {answer.batch_size}"
        )
    return f"model {answer.model_version}, {how}, unknown ids {_unknown(answer)}"


def joined_hint(answer: "Recommendations") -> str | None:
    """Return what to do about an unknown id that looks like several in one text."""
    joined = next((item_id for item_id in answer.unknown_item_ids if "," in item_id), None)
    if joined is None:
        return None
    return f"hint: {joined!r} was taken as one id; give each item its own --history"


def _unknown(answer: "Recommendations") -> str:
    """Return how many ids were unknown and, where the server says so, which."""
    named = ", ".join(answer.unknown_item_ids[:NAMED_UNKNOWN])
    more = ", …" if len(answer.unknown_item_ids) > NAMED_UNKNOWN else ""
    return f"{answer.unknown_ids}: {named}{more}" if named else str(answer.unknown_ids)


def main() -> None:
    """Entry point of `python -m mmsr.engine.client`."""
    run(app)
