"""`mmsr-train`: data in, features, training, evaluation."""

import typer

from mmsr.bundle.terminal import run
from mmsr.training.compare_cli import compare
from mmsr.training.evaluate_cli import evaluate
from mmsr.training.explain.cli import explain
from mmsr.training.features.cli import features
from mmsr.training.fit_cli import final, fit
from mmsr.training.nightly_cli import nightly
from mmsr.training.prepare.cli import app as prepare_app
from mmsr.training.report.cli import report

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(prepare_app, name="prepare")
app.command()(features)
app.command()(fit)
app.command()(evaluate)
app.command()(final)
app.command()(nightly)
app.command()(compare)
app.command()(explain)
app.command()(report)


@app.callback()
def _main() -> None:
    """Train a multimodal sequential recommender: prepare, features, fit, evaluate."""


def main() -> None:
    """Entry point of `mmsr-train`."""
    run(app)
