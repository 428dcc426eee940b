"""Starts the entrants' servers, proves them, and gives each its blocks of load, one at a time.

Whoever is not asked is stopped (SIGSTOP): a rival that polls its queues would otherwise take time
from the others.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.rivals.answers import expected, random_histories, require_equal
from benchmarks.rivals.connections import CallError, Connection, GrpcConnection, HttpConnection
from benchmarks.rivals.entrants import MMSR, Entrant
from benchmarks.rivals.load import Block, Loader, Plan
from benchmarks.rivals.processes import TICKS_PER_S, Running, ServerError, running
from benchmarks.rivals.shared_model import Order, Ranking
from benchmarks.rivals.venvs import PATHS, python_of

READY_S = 180.0  # a starved machine takes minutes to start Ray
RETRY_S = 0.3
DRAIN_S = 60.0  # for what a block above its capacity has left behind
SETTLE_S = 0.2  # from SIGCONT to the first request
CHECKED = 50  # histories whose answers are compared
HISTORIES = 1000
CORES = len(os.sched_getaffinity(0))
# Ray's own advice for throughput; the others read none of it.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "BENTOML_DO_NOT_TRACK": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    # A busy machine, or one that stops it between turns, is no reason to start its proxy anew.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
}


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What the servers serve, and where they may write."""

    repository: Path
    bundle: Path
    venvs: Path
    work: Path  # short: Ray makes sockets in it
    max_length: int
    k: int = 20
    threads: int = 1
    timeout_s: float = 2.0  # of one request: what is later has failed


@dataclass(frozen=True, kw_only=True)
class Contender:
    """An entrant's running server and the connection to it."""

    entrant: Entrant
    server: Running
    connection: Connection
    loader: Loader

    async def block(self, plan: Plan) -> Block:
        """Run a plan while everybody else is stopped; count the CPU time of both sides."""
        self.server.resume()
        await asyncio.sleep(SETTLE_S)
        await self.connection.renew()
        await self.empty()
        machine_s, server_s, began = busy_s(), self.server.cpu_s(), time.perf_counter()
        try:
            block = await self.loader.run(plan)
        finally:
            block_s = time.perf_counter() - began
            used_s = self.server.cpu_s() - server_s
            others_s = busy_s() - machine_s - used_s
            self.server.pause()
        self.server.require_alive()
        block.server_cpu_s = used_s
        others_share = (others_s - block.client_cpu_s) / (CORES * block_s)
        block.others_share = min(1.0, max(0.0, others_share))  # the kernel counts in ticks
        return block

    async def empty(self) -> None:
        """Wait until it has worked off what a block above its capacity has left in its queues."""
        ends = time.monotonic() + DRAIN_S
        while True:
            try:
                await self.loader.once()
            except CallError:
                self.server.require_alive()
                if time.monotonic() > ends:
                    return  # the block will say so
            else:
                return


class Ready(NamedTuple):
    """Who is there, and why others are not."""

    contenders: list[Contender]
    left_out: dict[str, str]  # name -> the first line of what went wrong

    def all(self) -> list[Contender]:
        """Return the contenders; `ServerError` unless everybody is there."""
        for name, reason in self.left_out.items():
            raise ServerError(f"{name} is needed and did not start: {reason}")
        return self.contenders


@asynccontextmanager
async def contenders(entrants: Sequence[Entrant], ground: Ground) -> AsyncIterator[Ready]:
    """Start all, compare their answers with the model's, and stop them again at the end.

    The first one must start; another that does not is left out. `RivalError`: one answers wrongly.
    """
    here = asyncio.current_task()
    assert here is not None
    loop = asyncio.get_running_loop()
    # Else SIGTERM would leave every server behind.
    loop.add_signal_handler(signal.SIGTERM, here.cancel)
    histories = random_histories(ground.bundle, HISTORIES, ground.max_length)
    wanted = expected(ground.bundle, histories[:CHECKED], ground.k)
    ready = Ready([], {})
    async with AsyncExitStack() as running_ones:
        running_ones.callback(loop.remove_signal_handler, signal.SIGTERM)
        for entrant in entrants:
            say(f"{entrant.name} gets ready")
            try:
                contender = await opened(entrant, ground, histories, running_ones)
                if entrant.answers_by_model:
                    await prove(contender, histories, wanted, ground.k)
            except ServerError as error:
                if entrant is entrants[0]:
                    raise
                say(f"{entrant.name} is left out: {error}")
                ready.left_out[entrant.name] = str(error).splitlines()[0]
            else:
                contender.server.pause()
                ready.contenders.append(contender)
        yield ready


async def opened(
    entrant: Entrant, ground: Ground, histories: Sequence[list[str]], until: AsyncExitStack
) -> Contender:
    """Start a server and connect to it, until the stack is closed."""
    order = order_of(entrant, ground)
    server = until.enter_context(start(entrant, order, ground))
    connection = await connected(entrant, server, order.port, ground, histories[0])
    until.push_async_callback(connection.close)
    requests = [entrant.encode(history, ground.k) for history in histories]
    return Contender(
        entrant=entrant, server=server, connection=connection, loader=Loader(connection, requests)
    )


async def prove(
    contender: Contender, histories: Sequence[list[str]], wanted: Sequence[Ranking], k: int
) -> None:
    """Compare answers with the model's, one by one; `RivalError` if one differs."""
    entrant = contender.entrant
    for history, ranking in zip(histories, wanted, strict=False):
        request = entrant.encode(history, k)
        try:
            answer = await contender.connection.call(request)
        except CallError as error:
            raise ServerError(f"{entrant.name} failed before any load: {error}") from None
        require_equal(entrant.name, ranking, *entrant.decode(answer))


def order_of(entrant: Entrant, ground: Ground) -> Order:
    """Return what a server is told."""
    return Order(
        bundle=str(ground.bundle),
        port=free_port(),
        side_port=free_port(),
        threads=ground.threads,
        wait_ms=entrant.wait_ms,
        folder=str(ground.work),
    )


def start(entrant: Entrant, order: Order, ground: Ground) -> AbstractContextManager[Running]:
    """Start an entrant's server; it ends with the block."""
    python = str(python_of(entrant.venv, ground.venvs))
    command = [python, "-m", entrant.module, *entrant.arguments]
    if entrant.module == MMSR.module:
        command += ["--repository", str(ground.repository), "--port", str(order.port)]
        command += ["--threads", str(order.threads)]
    elif entrant.venv == "bentoml":
        command = [python, "-m", "bentoml", "serve", entrant.module]
        command += ["--host", "127.0.0.1", "--port", str(order.port)]
    path = os.pathsep.join(map(str, PATHS))
    home = {"HOME": str(ground.work), "BENTOML_HOME": str(ground.work / "bentoml")}
    log = ground.work / f"{entrant.slug}.log"
    environment = {**ENVIRONMENT, **home, "PYTHONPATH": path, **order.environment()}
    return running(entrant.name, command, environment, log)


async def connected(
    entrant: Entrant, server: Running, port: int, ground: Ground, history: list[str]
) -> Connection:
    """Wait until a server answers a first request."""
    ends = time.monotonic() + READY_S
    request = entrant.encode(history, ground.k)
    while True:
        connection = connection_to(entrant, port, ground.timeout_s)
        try:
            await connection.call(request)
        except CallError as error:
            await connection.close()
            server.require_alive()
            if time.monotonic() > ends:
                raise ServerError(
                    f"{entrant.name} does not answer after {READY_S:g} s ({error}):\n"
                    f"{server.last_words()}"
                ) from None
            await asyncio.sleep(RETRY_S)
        else:
            return connection


def connection_to(entrant: Entrant, port: int, timeout_s: float) -> Connection:
    """Open the connection that an entrant's protocol needs."""
    if entrant.protocol == "grpc":
        return GrpcConnection(port, entrant.path, timeout_s)
    return HttpConnection(port, entrant.path, timeout_s)


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
    return port


def busy_s() -> float:
    """Return the seconds that all cores have worked since the machine started."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, irq, soft = map(int, fields[:7])
    return (user + nice + system + irq + soft) / TICKS_PER_S


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)
