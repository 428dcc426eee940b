"""A progress bar over a known time, on a terminal only. Knows nothing of what is measured."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

REDRAW_S = 0.2  # drawing costs about 1 ms, which the measured must not feel


@contextmanager
def progress_bar(name: str, total_s: float) -> Iterator[Callable[[float], None]]:
    """Yield a function that is told how many of `total_s` seconds have passed."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        auto_refresh=False,
        disable=not console.is_terminal,
    )
    drawn_s = 0.0
    with bar:
        task = bar.add_task(name, total=total_s)

        def tick(passed_s: float) -> None:
            nonlocal drawn_s
            now_s = time.monotonic()
            if now_s - drawn_s >= REDRAW_S:
                drawn_s = now_s
                bar.update(task, completed=passed_s, refresh=True)

        yield tick
