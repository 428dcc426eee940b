"""`mmsr-train explain`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(stderr=True)


def explain(
    run: Annotated[Path, typer.Argument(help="folder of a run")],
    user: Annotated[str, typer.Option(help="id of the user, as in the shop's log")],
    out: Annotated[Path, typer.Option(help="picture to write, .png")],
    data: Annotated[Path | None, typer.Option(help="the run's data, if they were moved")] = None,
    block: Annotated[int | None, typer.Option(help="from 1; default: the last")] = None,
    head: Annotated[int | None, typer.Option(help="from 1; default: the mean of all")] = None,
    k: Annotated[int, typer.Option(help="how many recommendations")] = 10,
    items: Annotated[int, typer.Option(help="history items shown, the newest")] = 12,
) -> None:
    """Draw what a user bought, which of it each source looks at, and what is recommended."""
    from mmsr.training.explain.explanation import ExplainError, View, explain_user
    from mmsr.training.explain.figure import draw, picture_reader
    from mmsr.training.run import open_run

    if out.suffix.lower() != ".png":
        raise ExplainError(f"--out {out}; expected a name that ends in .png")
    if items < 1:
        raise ExplainError(f"--items {items}; expected at least 1")
    trained = open_run(run, data)
    explanation = explain_user(trained, user, View(block=block, head=head, k=k))
    sheet = draw(explanation, items, picture_reader(trained.dataset.image_root))
    if not sheet.save(out):
        console.print(
            "some titles have characters that no font on this machine draws; "
            "the Noto fonts (fonts-noto-cjk) have most"
        )
    console.print(
        f"{out}: {len(explanation.history)} of {explanation.interactions} interactions read, "
        f"{len(explanation.recommended)} recommendations",
        soft_wrap=True,
    )
