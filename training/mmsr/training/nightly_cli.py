"""`mmsr-train nightly`."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from mmsr.training.nightly_store import StageStatus


def nightly(
    config: Annotated[Path, typer.Argument(help="recipe, TOML", metavar="CONFIG.toml")],
    source: Annotated[
        Path, typer.Option(help="the shop's folder, as for prepare table", metavar="SRC")
    ],
    work: Annotated[
        Path, typer.Option(help="where everything is kept from night to night", metavar="DIR")
    ],
    image_root: Annotated[
        Path | None, typer.Option(help="where image paths start, if not at SRC", metavar="DIR")
    ] = None,
    warm: Annotated[
        bool, typer.Option("--warm", help="begin with the weights of the night before")
    ] = False,
    keep: Annotated[int, typer.Option(min=1, help="nights; older ones are deleted")] = 3,
) -> None:
    """Prepare, features, fit, evaluate, final: a night's training in one go.

    A stage whose inputs have not changed is skipped; a night that was
    interrupted goes on where it stopped. After every stage DIR/status.json
    says how the night stands. At the end DIR/latest is the final run:
    mmsr-export DIR/latest --repository REPO.

    Exit codes:
    0  done, also when nothing had changed
    1  any other error
    2  wrong usage
    3  no weights for the image encoder can be had
    4  another night is going on in DIR
    5  the training diverged; the checkpoints of its good epochs are kept
    """
    from mmsr.training.allocator import keep_freed_memory
    from mmsr.training.config import load_recipe
    from mmsr.training.distributed import ranks_of
    from mmsr.training.nightly_store import NightError, Work
    from mmsr.training.prepare.progress import progress_bars

    recipe = load_recipe(config)
    if ranks_of(os.environ).count > 1:
        raise NightError("nightly is one process; start it without torchrun (fit may have several)")
    place = Work(root=work)
    with place.locked():
        from mmsr.training.nightly import run_night
        from mmsr.training.nightly_stages import Night, Shown

        keep_freed_memory()
        records = place.records()
        terminal = Console(stderr=True).is_terminal
        night = Night(
            recipe=recipe,
            source=source,
            image_root=image_root,
            work=place,
            previous=records[-1] if records else None,
            warm=warm,
            shown=Shown(preparing=progress_bars, working=_status_line, bars=terminal),
        )
        run_night(night, keep, _print)
    Console().print(f"to export: {work / 'latest'}", soft_wrap=True, highlight=False)


@contextmanager
def _status_line() -> Iterator[Callable[[str], None]]:
    """Show on a terminal what is going on, in one line that goes away; in a log nothing."""
    with Console(stderr=True).status("") as line:
        yield line.update


def _print(stage: "StageStatus") -> None:
    took = "unchanged" if stage.state == "unchanged" else f"{stage.seconds:.1f} s"
    line = f"{stage.name:<9} {took:>10}  {stage.summary}"
    Console().print(line, soft_wrap=True, highlight=False, markup=False)
