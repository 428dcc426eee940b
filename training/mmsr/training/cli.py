"""`mmsr-train`: data in, features, training, evaluation."""

import typer

from mmsr.bundle.terminal import run
from mmsr.training.features.cli import features
from mmsr.training.fit_cli import evaluate, fit
from mmsr.training.prepare.cli import app as prepare_app

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(prepare_app, name="prepare")
app.command()(features)
app.command()(fit)
app.command()(evaluate)


@app.callback()
def _main() -> None:
    """Train a multimodal sequential recommender: prepare, features, fit, evaluate."""


def main() -> None:
    """Entry point of `mmsr-train`."""
    run(app)
