"""`mmsr-train fit` and `mmsr-train final`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from mmsr.training.distributed import Ranks
    from mmsr.training.fit import Trainer

Resume = Annotated[bool, typer.Option("--resume", help="go on with the run in --out, or begin it")]
InitFrom = Annotated[
    Path | None,
    typer.Option(help="run whose weights it begins with; items are found by id", metavar="RUN"),
]


def fit(
    config: Annotated[Path, typer.Argument(help="recipe, TOML", metavar="CONFIG.toml")],
    data: Annotated[Path, typer.Option(help="prepared data with features")],
    out: Annotated[Path, typer.Option(help="folder of the run")],
    resume: Resume = False,
    init_from: InitFrom = None,
    epochs: Annotated[int | None, typer.Option(help="instead of the recipe's")] = None,
    seed: Annotated[int | None, typer.Option(help="instead of the recipe's")] = None,
) -> None:
    """Train a model; the best epoch by validation NDCG@10 is kept.

    On several GPUs or machines, each of whose processes takes the recipe's
    batch_size a step: torchrun --nproc-per-node 4 --no-python mmsr-train fit ...
    """
    from dataclasses import replace

    from mmsr.training.allocator import keep_freed_memory
    from mmsr.training.config import load_recipe
    from mmsr.training.distributed import joined
    from mmsr.training.features.store import naming_recipe
    from mmsr.training.run import start_run

    keep_freed_memory()
    recipe = load_recipe(config)
    if epochs is not None:
        recipe = replace(recipe, fit=replace(recipe.fit, epochs=epochs))
    if seed is not None:
        recipe = replace(recipe, fit=replace(recipe.fit, seed=seed))
    with joined() as ranks, naming_recipe(config):
        _train(start_run(recipe, data, out, resume, init_from), out, ranks)


def final(
    run: Annotated[Path, typer.Argument(help="folder of a run that was validated")],
    out: Annotated[Path, typer.Option(help="folder of the final run")],
    data: Annotated[Path | None, typer.Option(help="the run's data, if they were moved")] = None,
    resume: Resume = False,
    init_from: InitFrom = None,
) -> None:
    """Train RUN's recipe again on all interactions: what to export.

    Nothing is held out. Recipe, seed and first weights are RUN's, and as many
    epochs as RUN's best one needed. RUN's metrics come along, marked as such.
    """
    from mmsr.training.allocator import keep_freed_memory
    from mmsr.training.distributed import joined
    from mmsr.training.final import take_over_evaluation
    from mmsr.training.run import start_final

    keep_freed_memory()
    with joined() as ranks:
        _train(start_final(run, data, out, resume, init_from), out, ranks)
        if not ranks.first:
            return
    if not take_over_evaluation(out):
        _console().print(
            f"no metrics come along: {run} has not been evaluated at its best epoch; "
            f"run mmsr-train evaluate {run}, then this again with --resume",
            soft_wrap=True,
            highlight=False,
        )


def _train(trainer: "Trainer", out: Path, ranks: "Ranks") -> None:
    from mmsr.training.watch import train_watched

    console = _console(quiet=not ranks.first)
    if trainer.warm_start is not None:
        for line in trainer.warm_start.lines():
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    train_watched(trainer, out, console)


def _console(quiet: bool = False) -> Console:
    return Console(stderr=True, quiet=quiet)
