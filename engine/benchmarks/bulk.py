"""`RecommendBatch` beside the runner alone, and single requests beside bulk calls.

    python engine/benchmarks/bulk.py --markdown engine/results/bulk.md

A bundle with random tables is served by the recommender service in a process of its own; this one
is the client. In turns, there and back: calls of 256 requests, one and two at a time, and the same
requests in batches of 64 handed to the model in the server's computing thread, with no request in
the server. Then single requests, one at a time, with and without calls of 1,024 beside them.
"""

# R rounds

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import typer
import uvloop

from benchmarks.random_bundle import Shape, write_bundle
from mmsr.bundle.terminal import run as run_app
from mmsr.engine.batcher import Batcher
from mmsr.engine.bench.machine import describe_environment
from mmsr.engine.client import AsyncRecommenderClient, Recommendations, Request
from mmsr.engine.compute import ComputeThread
from mmsr.engine.config import BatchConfig, Limits, default_threads
from mmsr.engine.deployment import Deployment, warm_up
from mmsr.engine.face import RecommenderFace
from mmsr.engine.items import ItemIndex
from mmsr.engine.model import RowAnswer, RowRequest, SequenceModel, open_model
from mmsr.engine.popular import history_length, with_popular
from mmsr.engine.rpc import Rpc
from mmsr.engine.service import ModelFacts, Service
from mmsr.engine.serving import Serving

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
K = 10
CALL = 256  # requests
LARGE = 1024
DIFFERENT = 4  # calls that take turns
LABEL = "stable"


def histories(shape: Shape, count: int) -> list[list[int]]:
    """Return rows of items, drawn anew for every request."""
    random = np.random.default_rng([shape.items, shape.seed])
    rows: list[list[int]] = random.integers(1, shape.items + 1, (count, shape.length)).tolist()
    return rows


class Server:
    """The service in its own process, and the runner alone in the same thread."""

    def __init__(
        self, model: SequenceModel, shape: Shape, config: BatchConfig | None = None
    ) -> None:
        self._model = model
        self._shape = shape
        self._config = config or BatchConfig()
        self._compute = ComputeThread(asyncio.get_running_loop())

    async def serve(self) -> None:
        """Serve until the standard input ends; each line of it is a turn of the runner alone."""
        self._compute.start()
        deployment = await self._deploy()
        serving = Serving(LABEL)
        serving.use(LABEL, deployment)
        server = grpc.aio.server()
        RecommenderFace(serving).add_to(server, Rpc(time.monotonic))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        tell({"port": port})
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            asked = json.loads(line)
            if "turn_s" in asked:
                tell(await self._compute.run(lambda: self._alone(asked["turn_s"])))  # noqa: B023
            else:
                tell({"cpu_s": time.process_time()})
        await server.stop(None)
        self._compute.close()

    async def _deploy(self) -> Deployment:
        model, config, compute = self._model, self._config, self._compute
        items = ItemIndex(model.bundle.catalogue)
        times = await compute.run(lambda: warm_up(model, config.max_batch, time.monotonic))
        batcher = Batcher[RowRequest, RowAnswer](
            with_popular(model.recommend, model.named),
            compute,
            config,
            clock=time.monotonic,
            times=times,
            length=history_length,
        )
        facts = ModelFacts(model.version, model.max_length, True)
        service = Service(items, batcher, facts, Limits(), model.named)
        nothing: Any = None
        return Deployment(
            model=model,
            batcher=batcher,
            service=service,
            asides=nothing,
            similar=nothing,
            explaining=nothing,
        )

    def _alone(self, turn_s: float) -> dict[str, float]:
        """Compute full batches for a while; in the computing thread."""
        size = self._config.max_batch
        rows = histories(self._shape, CALL * DIFFERENT)
        requests = [RowRequest(history, list(dict.fromkeys(history)), K) for history in rows]
        batches = [requests[n : n + size] for n in range(0, len(requests), size)]
        began, cpu, done = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - began < turn_s:
            self._model.recommend(batches[done % len(batches)])
            done += 1
        spent_s = time.perf_counter() - began
        return {
            "rate": size * done / spent_s,
            "cpu_us": 1e6 * (time.process_time() - cpu) / (size * done),
        }


def tell(values: dict[str, Any]) -> None:
    """Write one line to whoever has started this process."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


class Served:
    """The server's process, as its client sees it."""

    def __init__(
        self, folder: Path, shape: Shape, program: str = __file__, options: tuple[str, ...] = ()
    ) -> None:
        command = [sys.executable, program, "serve", str(folder), json.dumps(asdict(shape))]
        command += options
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = int(self._hear()["port"])

    def ask(self, **what: float) -> dict[str, float]:
        """Return the answer to one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _hear(self) -> dict[str, float]:
        assert self._process.stdout is not None
        answer: dict[str, float] = json.loads(self._process.stdout.readline())
        return answer


@dataclass(frozen=True, kw_only=True)
class Report:
    """Medians, least and most over the rounds."""

    shape: dict[str, Any]
    threads: int
    runner: dict[str, list[float]]
    calls: dict[str, dict[str, list[float]]]  # by how many at a time
    singles: dict[str, list[float]]
    environment: dict[str, Any]


def of_rounds(values_R: list[float]) -> list[float]:
    """Return median, least and most."""
    return [float(np.median(values_R)), min(values_R), max(values_R)]


async def in_bulk(
    client: AsyncRecommenderClient, calls: list[list[Request]], together: int, turn_s: float
) -> float:
    """Return the requests a second of so many callers."""
    ends = time.perf_counter() + turn_s
    done = 0

    async def caller(number: int) -> None:
        nonlocal done
        while time.perf_counter() < ends:
            answers = await client.recommend_batch(calls[number % len(calls)])
            assert all(isinstance(answer, Recommendations) for answer in answers)
            done += len(answers)
            number += together

    began = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(together)))
    return done / (time.perf_counter() - began)


async def singles(
    client: AsyncRecommenderClient, requests: list[Request], turn_s: float
) -> list[float]:
    """Return the milliseconds of single requests, one after the other."""
    ends, times = time.perf_counter() + turn_s, list[float]()
    while time.perf_counter() < ends:
        request = requests[len(times) % len(requests)]
        began = time.perf_counter()
        await client.recommend(request.history, request.k)
        times.append(1e3 * (time.perf_counter() - began))
    return times


class Measurement:
    """All rounds."""

    def __init__(self, served: Served, shape: Shape, turn_s: float) -> None:
        self._served = served
        self._turn_s = turn_s
        ids = [[f"item-{row - 1}" for row in rows] for rows in histories(shape, LARGE)]
        self._requests = [Request(history=history, k=K) for history in ids]
        self._calls = [self._requests[n : n + CALL] for n in range(0, len(ids), CALL)]
        self._rates: dict[str, list[float]] = {"runner": [], "1": [], "2": []}
        self._cpu_us: dict[str, list[float]] = {"runner": [], "1": [], "2": []}
        self._alone_ms: list[float] = []
        self._beside_ms: list[float] = []
        self._beside_rate: list[float] = []

    async def run(self, rounds: int) -> None:
        """Take turns, there and back."""
        async with AsyncRecommenderClient(f"127.0.0.1:{self._served.port}", 120.0) as client:
            turns: list[Callable[[], Coroutine[Any, Any, None]]] = [
                self._runner,
                lambda: self._bulk(client, 1),
                lambda: self._bulk(client, 2),
            ]
            await self._bulk(client, 1)
            for values in (*self._rates.values(), *self._cpu_us.values()):
                values.clear()
            for _ in range(rounds):
                for turn in [*turns, *turns[::-1]]:
                    await turn()
                await self._beside(client)

    async def _runner(self) -> None:
        found = self._served.ask(turn_s=self._turn_s)
        self._rates["runner"].append(found["rate"])
        self._cpu_us["runner"].append(found["cpu_us"])

    async def _bulk(self, client: AsyncRecommenderClient, together: int) -> None:
        before_s, began = self._served.ask()["cpu_s"], time.perf_counter()
        rate = await in_bulk(client, self._calls, together, self._turn_s)
        requests = rate * (time.perf_counter() - began)
        cpu_s = self._served.ask()["cpu_s"] - before_s
        self._rates[str(together)].append(rate)
        self._cpu_us[str(together)].append(1e6 * cpu_s / requests)

    async def _beside(self, client: AsyncRecommenderClient) -> None:
        """Time single requests alone, and beside a caller of 1,024 at a time."""
        self._alone_ms += await singles(client, self._requests, self._turn_s)
        large = [self._requests]
        bulk = asyncio.create_task(in_bulk(client, large, 1, self._turn_s))
        self._beside_ms += await singles(client, self._requests, self._turn_s)
        self._beside_rate.append(await bulk)

    def report(self, shape: Shape) -> Report:
        """Return the ratios to the runner's turns of the same round."""
        rounds = len(self._rates["runner"]) // 2
        pairs = {
            name: [sum(values[2 * n : 2 * n + 2]) / 2 for n in range(rounds)]
            for name, values in self._rates.items()
        }
        calls = {
            together: {
                "rate": of_rounds(pairs[together]),
                "of_runner": of_rounds(
                    [a / b for a, b in zip(pairs[together], pairs["runner"], strict=True)]
                ),
                "cpu_us": of_rounds(self._cpu_us[together]),
            }
            for together in ("1", "2")
        }
        return Report(
            shape=asdict(shape),
            threads=default_threads(),
            runner={
                "rate": of_rounds(pairs["runner"]),
                "cpu_us": of_rounds(self._cpu_us["runner"]),
            },
            calls=calls,
            singles={
                "alone_ms": quantiles(self._alone_ms),
                "beside_ms": quantiles(self._beside_ms),
                "bulk_rate": of_rounds(self._beside_rate),
            },
            environment=describe_environment().to_json(),
        )


def quantiles(times_ms: list[float]) -> list[float]:
    """Return p50, p90 and p99."""
    return [float(value) for value in np.quantile(times_ms, [0.5, 0.9, 0.99])]


def markdown(report: Report) -> str:
    """Write the report for people."""
    shape, environment = report.shape, report.environment
    runner = report.runner["rate"][0]
    lines = [
        "# `RecommendBatch` beside the runner alone",
        "",
        f"`{environment['command']}`, {environment['time'][:10]}, {environment['processor']}, "
        f"{environment['cores']} cores, load average {environment['load_average']:.1f} "
        f"(others' work counts: read the ratios). N = {shape['items']:,}, width {shape['width']}, "
        f"{shape['blocks']} blocks, histories of {shape['length']}, k = {K}, the model on "
        f"{report.threads} thread(s); client and server are two processes.",
        "",
        "| what | requests/s | of the runner alone, median (least to most) | server's CPU, "
        "µs a request |",
        "|---|---|---|---|",
        f"| runner alone, batches of 64 | {runner:,.0f} | 1 | {report.runner['cpu_us'][0]:,.0f} |",
    ]
    for together, found in report.calls.items():
        ratio, least, most = found["of_runner"]
        lines.append(
            f"| calls of {CALL}, {together} at a time | {found['rate'][0]:,.0f} | "
            f"{ratio:.2f} ({least:.2f} to {most:.2f}) | {found['cpu_us'][0]:,.0f} |"
        )
    alone, beside = report.singles["alone_ms"], report.singles["beside_ms"]
    lines += [
        "",
        f"Single requests, one at a time: p50 {alone[0]:.1f} ms, p90 {alone[1]:.1f}, p99 "
        f"{alone[2]:.1f}; beside calls of {LARGE:,} p50 {beside[0]:.1f} ms, p90 {beside[1]:.1f}, "
        f"p99 {beside[2]:.1f}, while these were answered at "
        f"{report.singles['bulk_rate'][0]:,.0f} requests/s: an eighth of each batch is theirs.",
        "",
    ]
    return "\n".join(lines)


@app.command()
def measure(
    items: Annotated[int, typer.Option(help="Items in the catalogue.")] = 100_000,
    width: Annotated[int, typer.Option(help="Width of the model.")] = 128,
    rounds: Annotated[int, typer.Option(help="Rounds; two turns each.")] = 5,
    turn_s: Annotated[float, typer.Option(help="Length of a turn.")] = 4.0,
    markdown_to: Annotated[Path | None, typer.Option("--markdown", help="Report.")] = None,
    json_to: Annotated[Path | None, typer.Option("--json", help="The same as numbers.")] = None,
) -> None:
    """Measure and print the report."""
    shape = Shape(items=items, width=width)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bundle"
        write_bundle(folder, shape, ())
        served = Served(folder, shape)
        try:
            measurement = Measurement(served, shape, turn_s)
            uvloop.run(measurement.run(rounds))
        finally:
            served.close()
    report = measurement.report(shape)
    typer.echo(markdown(report))
    if markdown_to is not None:
        markdown_to.write_text(markdown(report))
    if json_to is not None:
        json_to.write_text(json.dumps(asdict(report), indent=1) + "\n")


@app.command(hidden=True)
def serve(folder: Path, shape: str) -> None:
    """Serve a bundle to the process that has started this one."""
    made = Shape(**json.loads(shape))

    async def main() -> None:
        await Server(open_model(folder, threads=default_threads()), made).serve()

    uvloop.run(main())


if __name__ == "__main__":
    run_app(app)
