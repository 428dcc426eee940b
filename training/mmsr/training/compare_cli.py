"""`mmsr-train compare`."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from mmsr.training.compare import Asked
    from mmsr.training.compare_plan import PlannedRun
    from mmsr.training.compare_runs import Callbacks
    from mmsr.training.comparison import Comparison

COMPARISON_FILE = "comparison.json"
PIPE_WIDTH = 180  # characters, where there is no terminal to ask
TABLE_WIDTH = 145

console = Console(stderr=True)


def compare(
    configs: Annotated[list[Path], typer.Argument(help="recipes, TOML", metavar="CONFIG.toml")],
    data: Annotated[Path, typer.Option(help="prepared data with features")],
    out: Annotated[Path, typer.Option(help="folder of the runs, NAME-seed0 and so on")],
    seeds: Annotated[int, typer.Option(min=1, help="of every recipe: 0, 1, ...")] = 3,
    against: Annotated[
        str | None, typer.Option(help="recipe that all are compared with (default: the first)")
    ] = None,
    variants: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            help="another recipe: the first CONFIG with changes, as "
            "'NAME: model.fusion=\"gate\"; loss.text_weight=0.0'",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="of every recipe, instead of its own")
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option(min=0, help="begin and continue no training after that")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help=f"besides OUT/{COMPARISON_FILE}")
    ] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="write a report there")
    ] = None,
) -> None:
    """Train and test recipes with several seeds, beside popularity and content-kNN.

    Goes on where it was interrupted, run by run. Exit code 0: all was run; 1: some was not, and
    is listed with the reason.
    """
    from mmsr.training.compare import Asked, choose_against
    from mmsr.training.compare_plan import plan_recipes
    from mmsr.training.features.store import naming_recipe

    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    recipes = plan_recipes(configs, variants or [], epochs)
    asked = Asked(command=command, recipes=recipes, seeds=seeds, against=against)
    choose_against(asked)
    with naming_recipe(configs[0]):
        comparison = _run(asked, data, out, max_hours)
    _write(comparison, [out / COMPARISON_FILE, *([json_file] if json_file else [])], markdown_file)
    _print(comparison)
    if any(missing.seed is not None for missing in comparison.not_run):
        raise typer.Exit(1)


def _run(asked: "Asked", data: Path, out: Path, max_hours: float | None) -> "Comparison":
    from mmsr.training.allocator import keep_freed_memory
    from mmsr.training.compare import summarise_comparison
    from mmsr.training.compare_plan import plan_runs
    from mmsr.training.compare_runs import Runs
    from mmsr.training.dataset import open_dataset
    from mmsr.training.features.store import open_features

    keep_freed_memory()
    dataset = open_dataset(data)
    open_features(dataset)  # what is missing is said before hours are spent
    runs = Runs(data=data, out=out, max_hours=max_hours, callbacks=_callbacks())
    runs.run(plan_runs(asked.recipes, asked.seeds))
    with console.status("comparing"):
        return summarise_comparison(asked, runs, dataset)


def _write(comparison: "Comparison", json_files: list[Path], markdown_file: Path | None) -> None:
    from mmsr.bundle.files import atomic_path
    from mmsr.training.comparison import save_comparison
    from mmsr.training.comparison_text import markdown

    for path in json_files:
        save_comparison(path, comparison)
    if markdown_file is not None:
        with atomic_path(markdown_file) as temporary:
            temporary.write_text(markdown(comparison))


def _callbacks() -> "Callbacks":
    from mmsr.bundle.errors import MmsrError
    from mmsr.training.compare_runs import Callbacks
    from mmsr.training.watch import train_watched

    def begin(planned: "PlannedRun", number: int, total: int) -> None:
        console.rule(f"{number} of {total}: {planned.name}, seed {planned.seed}", align="left")

    def failed(planned: "PlannedRun", error: Exception) -> None:
        console.print(f"{planned.folder} failed: {error}", soft_wrap=True, markup=False)
        if not isinstance(error, MmsrError):
            console.print_exception()

    return Callbacks(
        begin=begin,
        train=lambda trainer, folder, after: train_watched(trainer, folder, console, after),
        testing=lambda planned: console.print("trained; ranking the test"),
        failed=failed,
    )


def _print(comparison: "Comparison") -> None:
    from mmsr.training.comparison_text import footer, header, not_run_lines, rows

    # A narrow terminal breaks the lines of the table rather than its numbers.
    width = max(Console().width if sys.stdout.isatty() else PIPE_WIDTH, TABLE_WIDTH)
    terminal = Console(width=width, highlight=False)
    table = Table(
        title=f"{comparison.data.name}: test", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1)
    )
    for index, title in enumerate(header(comparison)):
        # Two lines, so that the whole table fits a terminal.
        table.add_column(title.replace(" minus ", "\nminus "), justify="right" if index else "left")
    for row in rows(comparison, joint="\n"):
        table.add_row(*row)
    terminal.print(table)
    for line in footer(comparison):
        terminal.print(line, style="dim", markup=False)
    missing = not_run_lines(comparison)
    if missing:
        terminal.print("Not run:", style="bold")
    for line in missing:
        terminal.print(f"  {line}", markup=False, soft_wrap=True)
