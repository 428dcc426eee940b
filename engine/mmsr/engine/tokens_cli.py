"""`python -m mmsr.engine.tokens`: makes tokens for clients of a server."""

from typing import Annotated

import typer

from mmsr.bundle.terminal import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def tokens() -> None:
    """Tokens of the clients of mmsr-serve."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The client, as logs and metrics name it.")],
    scope: Annotated[
        list[str], typer.Option(help="recommend, catalogue or admin; may be repeated.")
    ],
) -> None:
    """Make a token: shown once, on standard error; its entry goes to standard output (>> FILE)."""
    from mmsr.engine.tokens import entry_of, new_token

    token = new_token()
    entry = entry_of(name, scope, token)
    typer.echo(f"the token of {name}, shown this once: {token}", err=True)
    typer.echo(entry, nl=False)


def main() -> None:
    """Entry point of `python -m mmsr.engine.tokens`."""
    run(app)
