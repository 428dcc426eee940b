"""`mmsr-train fit` and `mmsr-train evaluate`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

MASKS = ("masked", "unmasked")  # whether the items of the history are left out of the ranking

console = Console(stderr=True)


def fit(
    config: Annotated[Path, typer.Argument(help="recipe, TOML", metavar="CONFIG.toml")],
    data: Annotated[Path, typer.Option(help="prepared data with features")],
    out: Annotated[Path, typer.Option(help="folder of the run")],
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
    epochs: Annotated[int | None, typer.Option(help="instead of the recipe's [fit] epochs")] = None,
    seed: Annotated[int | None, typer.Option(help="instead of the recipe's [fit] seed")] = None,
) -> None:
    """Train a model; the best epoch by validation NDCG@10 is kept."""
    from dataclasses import replace

    from mmsr.training.allocator import keep_freed_memory
    from mmsr.training.config import load_recipe
    from mmsr.training.fit import Hooks
    from mmsr.training.model import count_parameters
    from mmsr.training.run import start_run

    keep_freed_memory()
    recipe = load_recipe(config)
    changes = {k: v for k, v in (("epochs", epochs), ("seed", seed)) if v is not None}
    recipe = replace(recipe, fit=replace(recipe.fit, **changes))
    trainer = start_run(recipe, data, out, resume)
    console.print(
        f"{trainer.info.items} items, {len(trainer.windows)} training windows, "
        f"{count_parameters(trainer.model)} parameters, sources: {', '.join(recipe.model.sources)}"
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("epoch")

        def on_step(done: int, steps: int, loss: float) -> None:
            text = f"epoch {trainer.progress.epoch + 1}/{recipe.fit.epochs}  loss {loss:.4f}"
            bar.update(task, description=text, completed=done, total=steps)

        def on_epoch(line: dict[str, float]) -> None:
            best = "  best" if trainer.progress.best_epoch == line["epoch"] else ""
            console.print(
                f"epoch {line['epoch']:>3}  loss {line['loss']:.4f}  validation NDCG@10 "
                f"{line['validation.masked.ndcg@10']:.4f}  Recall@10 "
                f"{line['validation.masked.recall@10']:.4f}  "
                f"{line['train_s']:.1f} + {line['validate_s']:.1f} s{best}",
                soft_wrap=True,
            )

        progress = trainer.run(out, Hooks(step=on_step, epoch=on_epoch))
    console.print(
        f"best epoch {progress.best_epoch} of {progress.epoch}: "
        f"validation NDCG@10 {progress.best_ndcg:.4f} (history masked), in {out}",
        soft_wrap=True,
    )


def evaluate(
    run: Annotated[Path, typer.Argument(help="folder of a run")],
    data: Annotated[Path | None, typer.Option(help="its data, if they were moved")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="write the metrics there too")
    ] = None,
) -> None:
    """Rank every held-out item among the whole catalogue: Recall, NDCG and MRR at 5, 10, 20."""
    from mmsr.bundle.files import write_json
    from mmsr.training.evaluate import flatten, model_ranks, popularity_ranks
    from mmsr.training.run import open_run
    from mmsr.training.split import leave_one_out

    trained = open_run(run, data)
    split = leave_one_out(trained.dataset)
    metrics: dict[str, float] = {}
    with console.status("ranking"):
        for part in ("validation", "test"):
            metrics |= flatten(part, model_ranks(trained.model, trained.content, split, part))
        popular = popularity_ranks(split, "test", trained.info.items)
        metrics |= flatten("popularity", popular)
    users = len(split.evaluated())
    result = {"checkpoint": trained.checkpoint.name, "users": users, "metrics": metrics}
    write_json(run / "evaluation.json", result)
    if json_file is not None:
        write_json(json_file, metrics)
    _print_metrics(metrics, users, trained.info.items)


def _print_metrics(metrics: dict[str, float], users: int, items: int) -> None:
    parts = [(part, mask) for part in ("test", "validation", "popularity") for mask in MASKS]
    table = Table(
        title=f"{users} users, {items} items, all ranked", title_justify="left", box=SIMPLE_HEAD
    )
    table.add_column("history")
    for part, mask in parts:
        table.add_column(f"{part}\n{mask}", justify="right")
    for name in [f"{m}@{k}" for m in ("recall", "ndcg", "mrr") for k in (5, 10, 20)]:
        row = [metrics[f"{part}.{mask}.{name}"] for part, mask in parts]
        table.add_row(name, *(f"{value:.4f}" for value in row))
    Console().print(table)
