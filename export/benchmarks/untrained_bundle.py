"""A repository with one bundle of an untrained SASRec: any number of items, no real shop needed.

    python export/benchmarks/untrained_bundle.py REPO --items 100000 --width 128

The model has ids and positions alone (`training/configs/baselines/sasrec.toml`: positions in the
inputs). What its benchmarks time does not depend on the weights, which are as training begins
with them; so its recommendations mean nothing. Does nothing where REPO already serves `stable`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.repository import Repository
from mmsr.bundle.terminal import run as run_app
from mmsr.training.checkpoint import Progress, save_checkpoint, save_run_info
from mmsr.training.config import parse_recipe
from mmsr.training.run import start_run

INTERACTIONS_PER_ITEM = 3
USERS_PER_ITEM = 0.25

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def spawn(module: str, *arguments: str) -> None:
    """Run a command line of ours; what it says goes to standard error."""
    command = [sys.executable, "-c", f"from {module} import main; main()", *arguments]
    code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if code:
        raise MmsrError(f"{module} ended with code {code}; its messages stand above")


def untrained_run(data: Path, out: Path, model: dict[str, Any]) -> None:
    """Save the checkpoint of a model as it begins."""
    recipe = parse_recipe({"model": model, "loss": {"softmax": "sampled"}}, "untrained")
    trainer = start_run(recipe, data, out, resume=False)
    save_checkpoint(out, trainer.model.state_dict(), {}, Progress(epoch=1, best_epoch=1))
    save_run_info(out, trainer.info)


def is_served(repository: Path) -> bool:
    """Tell whether the repository has a bundle under its first label."""
    return (repository / "labels" / "stable.json").exists()


@app.command()
def main(
    repository: Annotated[Path, typer.Argument(help="folder to publish in")],
    items: Annotated[int, typer.Option(min=1000)] = 12_000,
    width: Annotated[int, typer.Option(min=8)] = 64,
    length: Annotated[int, typer.Option(help="history items that it reads", min=1)] = 50,
    blocks: Annotated[int, typer.Option(min=1)] = 2,
    heads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Publish the bundle as `stable`, through the gate as any other."""
    if is_served(repository):
        bundle = Repository(repository).resolve("stable").name
        typer.echo(f"{repository} serves {bundle} already", err=True)
        return
    model = {
        "sources": ["id"],
        "position_in_inputs": True,
        "width": width,
        "side_width": width,
        "feedforward_width": width,  # SASRec's own
        "blocks": blocks,
        "heads": heads,
        "max_length": length,
    }
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / "data", Path(folder) / "run"
        counts = ("--items", items, "--users", int(items * USERS_PER_ITEM))
        volume = ("--interactions", items * INTERACTIONS_PER_ITEM)
        shop = map(str, ("prepare", "toy", data, *counts, *volume, "--no-images"))
        spawn("mmsr.training.cli", *shop)
        untrained_run(data, run, model)
        # It cannot beat popularity: accept that.
        options = ("--repository", str(repository), "--accept-drop")
        spawn("mmsr.export.cli", str(run), *options)


if __name__ == "__main__":
    run_app(app)
