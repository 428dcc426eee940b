"""`mmsr-bench`: the scenarios as one command line."""

import typer

from mmsr.bundle.terminal import run
from mmsr.engine.bench import manual
from mmsr.engine.bench.catalogue_cli import catalogue
from mmsr.engine.bench.compare_cli import compare
from mmsr.engine.bench.runner_cli import encode, engine, retrain
from mmsr.engine.bench.server_cli import overload, reload, server, slo

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback(help=manual.MAIN)
def _main() -> None:
    """Hold the scenarios together."""


app.command(help=manual.SERVER)(server)
app.command(help=manual.SLO)(slo)
app.command(help=manual.OVERLOAD)(overload)
app.command(help=manual.RELOAD)(reload)
app.command(help=manual.CATALOGUE)(catalogue)
app.command(help=manual.ENGINE)(engine)
app.command(help=manual.ENCODE)(encode)
app.command(help=manual.RETRAIN)(retrain)
app.command(help=manual.COMPARE)(compare)


def main() -> None:
    """Entry point of `mmsr-bench`."""
    run(app)
