"""Runs a trainer and shows it on the terminal: a bar within an epoch, a line after each."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mmsr.training.fit import Hooks, Trainer
from mmsr.training.model import count_parameters
from mmsr.training.selection import MASKS, METRICS, column_of, selecting_mask


def train_watched(
    trainer: Trainer, out: Path, console: Console, after_epoch: Callable[[], None] | None = None
) -> None:
    """Train into the run folder `out`; whatever `after_epoch` raises ends it, resumable."""
    recipe = trainer.info.recipe
    console.print(
        f"{trainer.info.items} items, {len(trainer.windows)} training windows, "
        f"{count_parameters(trainer.model)} parameters, sources: {', '.join(recipe.model.sources)}",
        soft_wrap=True,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("epoch")

        def on_step(done: int, steps: int, loss: float) -> None:
            text = f"epoch {trainer.progress.epoch + 1}/{trainer.epoch_limit()}  loss {loss:.4f}"
            bar.update(task, description=text, completed=done, total=steps)

        def on_epoch(line: dict[str, float]) -> None:
            console.print(epoch_line(line, trainer.progress.best_epoch), soft_wrap=True)
            if after_epoch is not None:
                after_epoch()

        if trainer.finished():
            console.print(
                f"nothing left to train after epoch {trainer.progress.epoch}", soft_wrap=True
            )
        try:
            trainer.run(out, Hooks(step=on_step, epoch=on_epoch))
        except KeyboardInterrupt:
            console.print(
                f"interrupted in epoch {trainer.progress.epoch + 1}; the same command with "
                "--resume goes on after the last whole one",
                soft_wrap=True,
            )
            raise
    progress = trainer.progress
    if trainer.info.selected_by is not None:
        console.print(f"epochs on all interactions: {progress.epoch}, in {out}", soft_wrap=True)
        return
    mask = selecting_mask(progress.log[-1] if progress.log else {}) or "masked"
    console.print(
        f"best epoch {progress.best_epoch} of {progress.epoch}: "
        f"validation NDCG@10 {progress.best_ndcg:.4f} ({MASKS[mask]}), in {out}",
        soft_wrap=True,
    )


def epoch_line(line: dict[str, float], best_epoch: int) -> str:
    """Return what is said of an epoch from its line in the log."""
    trained = f"epoch {line['epoch']:>3}  loss {line['loss']:.4f}"
    mask = selecting_mask(line)
    if mask is None:  # a final run holds nothing out
        return f"{trained}  {line['train_s']:.1f} s"
    best = "  best" if best_epoch == line["epoch"] else ""
    ndcg, recall = (line[column_of(mask, name)] for name in METRICS)
    return (
        f"{trained}  validation NDCG@10 {ndcg:.4f}  Recall@10 {recall:.4f}  "
        f"{line['train_s']:.1f} + {line['validate_s']:.1f} s{best}"
    )
