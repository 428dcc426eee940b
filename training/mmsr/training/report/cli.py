"""`mmsr-train report`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(stderr=True)


def report(
    source: Annotated[
        Path, typer.Argument(help="folder of a run, or the JSON file of mmsr-train compare")
    ],
    out: Annotated[Path, typer.Option(help="page to write, .html")],
) -> None:
    """Write a page with curves and metrics: one HTML file that needs no network."""
    from mmsr.bundle.errors import MmsrError
    from mmsr.bundle.files import atomic_path
    from mmsr.training.comparison import load_comparison
    from mmsr.training.report.comparison_page import comparison_page
    from mmsr.training.report.run_page import run_page
    from mmsr.training.report.runs import read_run

    if out.suffix.lower() not in (".html", ".htm"):
        raise MmsrError(f"--out {out}; expected a name that ends in .html")
    if source.is_dir():
        text = run_page(read_run(source))
    else:
        text = comparison_page(load_comparison(source))
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    console.print(f"{out}: {len(text.encode()) / 1024:.0f} KiB", soft_wrap=True)
