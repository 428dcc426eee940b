"""`mmsr-bench`: the scenarios as one command line."""

import typer

from mmsr.bundle.terminal import run
from mmsr.engine.bench import manual
from mmsr.engine.bench.runner_cli import engine
from mmsr.engine.bench.server_cli import server

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback(help=manual.MAIN)
def _main() -> None:
    """Hold the scenarios together."""


app.command(help=manual.SERVER)(server)
app.command(help=manual.ENGINE)(engine)


def main() -> None:
    """Entry point of `mmsr-bench`."""
    run(app)
