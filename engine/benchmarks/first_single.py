"""The first single request after a quiet time, into the middle of bulk calls.

    python engine/benchmarks/first_single.py measure --markdown engine/results/first-single.md

Two servers of one bundle with random tables: of one, batches of bulk requests alone are as large as
any (`bulk_ms` without end); of the other, as the settings' defaults have it. In turns, there and
back: the runner alone, calls of 256 one at a time, and single requests that come, after a second
without any, while calls of 1,024 are answered.
"""

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import uvloop

from benchmarks.bulk import CALL, LARGE, K, Served, Server, histories, in_bulk
from benchmarks.random_bundle import Shape, write_bundle
from mmsr.bundle.terminal import run as run_app
from mmsr.engine.bench.machine import describe_environment
from mmsr.engine.client import AsyncRecommenderClient, Request
from mmsr.engine.config import BatchConfig, default_threads
from mmsr.engine.lanes import QUIET_S
from mmsr.engine.model import open_model

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
SIDES = {"as large as any": "1e9", "as small as is efficient": str(BatchConfig.bulk_ms)}
PAUSE_S = 1.2 * QUIET_S


class Side:
    """One server and what was measured of it."""

    def __init__(self, folder: Path, shape: Shape, bulk_ms: str) -> None:
        self.served = Served(folder, shape, __file__, (bulk_ms,))
        ids = [[f"item-{row - 1}" for row in rows] for rows in histories(shape, LARGE)]
        self._requests = [Request(history=history, k=K) for history in ids]
        self._calls = [self._requests[n : n + CALL] for n in range(0, len(ids), CALL)]
        self.runner: list[float] = []  # requests/s
        self.rates: list[float] = []  # the same of the calls
        self.waits_ms: list[float] = []

    async def turn(self, turn_s: float) -> None:
        """Measure all three."""
        async with AsyncRecommenderClient(f"127.0.0.1:{self.served.port}", 120.0) as client:
            self.runner.append(self.served.ask(turn_s=turn_s)["rate"])
            self.rates.append(await in_bulk(client, self._calls, 1, turn_s))
            await self._after_quiet(client, 2 * turn_s)

    async def _after_quiet(self, client: AsyncRecommenderClient, turn_s: float) -> None:
        ends = time.perf_counter() + turn_s
        bulk = asyncio.create_task(in_bulk(client, [self._requests], 1, turn_s + PAUSE_S))
        while time.perf_counter() < ends:
            await asyncio.sleep(PAUSE_S)
            began = time.perf_counter()
            await client.recommend(self._requests[0].history, K)
            self.waits_ms.append(1e3 * (time.perf_counter() - began))
        await bulk

    def line(self, name: str) -> str:
        """Return the side's line of the table."""
        ratios = np.divide(self.rates, self.runner)
        p50, p90, most = np.quantile(self.waits_ms, [0.5, 0.9, 1.0])
        return (
            f"| {name} | {np.median(self.rates):,.0f} | {np.median(ratios):.2f} "
            f"({ratios.min():.2f} to {ratios.max():.2f}) | {p50:.1f} | {p90:.1f} | {most:.1f} | "
            f"{len(self.waits_ms)} |"
        )


def page(shape: Shape, sides: dict[str, Side]) -> str:
    """Write the report for people."""
    environment = describe_environment().to_json()
    lines = [
        "# The first single request after a quiet time",
        "",
        f"`{environment['command']}`, {environment['time'][:10]}, {environment['processor']}, "
        f"{environment['cores']} cores, load average {environment['load_average']:.1f} "
        f"(others' work counts: read the ratios). N = {shape.items:,}, width {shape.width}, "
        f"histories of {shape.length}, k = {K}, the model on {default_threads()} thread(s).",
        "",
        f"| batches of bulk requests alone | calls of {CALL}, requests/s | of the runner alone in "
        "full batches, median (least to most) | single request p50, ms | p90 | most | singles |",
        "|---|--:|---|--:|--:|--:|--:|",
        *(side.line(name) for name, side in sides.items()),
        "",
    ]
    return "\n".join(lines)


@app.command()
def measure(
    items: Annotated[int, typer.Option(help="Items in the catalogue.")] = 100_000,
    width: Annotated[int, typer.Option(help="Width of the model.")] = 128,
    rounds: Annotated[int, typer.Option(help="Rounds; two turns of each server.")] = 3,
    turn_s: Annotated[float, typer.Option(help="Length of a turn.")] = 3.0,
    markdown_to: Annotated[Path | None, typer.Option("--markdown", help="Report.")] = None,
) -> None:
    """Measure and print the report."""
    shape = Shape(items=items, width=width)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bundle"
        write_bundle(folder, shape, ())
        sides = {name: Side(folder, shape, bulk_ms) for name, bulk_ms in SIDES.items()}

        async def main() -> None:
            for _ in range(rounds):
                for side in [*sides.values(), *reversed(sides.values())]:
                    await side.turn(turn_s)

        try:
            uvloop.run(main())
        finally:
            for side in sides.values():
                side.served.close()
    text = page(shape, sides)
    typer.echo(text)
    if markdown_to is not None:
        markdown_to.write_text(text)


@app.command(hidden=True)
def serve(folder: Path, shape: str, bulk_ms: float) -> None:
    """Serve a bundle to the process that has started this one."""
    made = Shape(**json.loads(shape))

    async def main() -> None:
        model = open_model(folder, threads=default_threads())
        await Server(model, made, BatchConfig(bulk_ms=bulk_ms)).serve()

    uvloop.run(main())


if __name__ == "__main__":
    run_app(app)
