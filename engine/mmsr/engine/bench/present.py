"""What every scenario does with its report: a table, a file or two, an exit code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from mmsr.engine.bench.plan import REGRESSION_EXIT_CODE, VOID_EXIT_CODE

INTERRUPTED_EXIT_CODE = 130


def show(
    measure: Callable[[], Any],
    print_report: Callable[[Any, Any], None],
    json_file: Path | None = None,
    html_file: Path | None = None,
) -> None:
    """Measure, print, write what was asked for; leave with the report's exit code if not 0.

    SIGTERM, like Ctrl-C, ends the measuring and keeps what there is.
    """
    from rich.console import Console

    from mmsr.engine.bench.interrupt import sigterm_as_interrupt
    from mmsr.engine.bench.report import write_report

    with sigterm_as_interrupt():
        report = measure()
    print_report(Console(), report)
    if json_file is not None:
        write_report(json_file, report)
    if html_file is not None:
        from mmsr.engine.bench.page.document import write_page

        write_page(html_file, report)
    if report.interrupted:
        raise typer.Exit(INTERRUPTED_EXIT_CODE)
    if getattr(report, "regressed", False):
        raise typer.Exit(REGRESSION_EXIT_CODE)
    if getattr(report, "void", False):
        raise typer.Exit(VOID_EXIT_CODE)
