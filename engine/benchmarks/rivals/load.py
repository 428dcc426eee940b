"""One block of load on one connection: closed loop or Poisson. Knows nothing of who is asked.

Latency counts from the intended send time, which in the open loop is drawn beforehand whatever
the server does. The generator's own lateness is kept beside it.
"""

import asyncio
import gc
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.rivals.connections import CallError, Connection
from mmsr.engine.bench.arrivals import poisson_arrivals_s
from mmsr.engine.bench.pacer import Pacer

START_DELAY_S = 0.02  # so that the arrival times are drawn before the first of them
GIVE_UP_S = 2.0  # after the last arrival: what is not sent by then counts as failed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A closed loop of `concurrency` callers, or an open one at `rate_per_s`; one is None."""

    concurrency: int | None = None
    rate_per_s: float | None = None
    warm_up_s: float = 0.5  # sent, not counted
    duration_s: float = 3.0
    seed: int = 0

    @property
    def total_s(self) -> float:
        """Return how long requests are sent."""
        return self.warm_up_s + self.duration_s


@dataclass(kw_only=True)
class Block:
    """What came of a plan; times in seconds since its start. R requests after the warm-up."""

    plan: Plan
    latency_s: list[float] = field(default_factory=list)  # of those answered
    lag_s: list[float] = field(default_factory=list)  # of all: sent minus intended
    done_in_time: int = 0  # answers that came while requests were sent
    failed: int = 0
    first_failure: str = ""
    all_answers: int = 0  # warm-up included
    client_cpu_s: float = 0.0  # of this process, warm-up included
    # Filled in by whoever knows the machine:
    server_cpu_s: float = 0.0  # of all the server's processes
    others_share: float = 0.0  # of all cores' time, taken by neither server nor client

    @property
    def per_s(self) -> float:
        """Return the answers a second."""
        return self.done_in_time / self.plan.duration_s


class Loader:
    """Sends the requests of plans over one connection, in turn, for ever."""

    def __init__(self, connection: Connection, requests: list[bytes]) -> None:
        self.connection = connection
        self._requests: Iterator[bytes] = itertools.cycle(requests)

    async def once(self) -> None:
        """Send one request and wait for its answer; `CallError`."""
        await self.connection.call(next(self._requests))

    async def run(self, plan: Plan) -> Block:
        """Send a plan's requests and wait for the last answer."""
        gc.collect()
        gc.disable()  # a collection would be counted as latency
        try:
            block, cpu_s = Block(plan=plan), time.process_time()
            if plan.rate_per_s is None:
                await self._closed(plan, block)
            else:
                await self._open(plan, block)
            block.client_cpu_s = time.process_time() - cpu_s
        finally:
            gc.enable()
        return block

    async def _closed(self, plan: Plan, block: Block) -> None:
        start_s = time.perf_counter()
        ends_s = start_s + plan.total_s

        async def caller() -> None:
            while (now_s := time.perf_counter()) < ends_s:
                await self._call(block, start_s, now_s)

        await asyncio.gather(*(caller() for _ in range(plan.concurrency or 0)))

    async def _open(self, plan: Plan, block: Block) -> None:
        start_s = time.perf_counter() + START_DELAY_S
        arrivals_s = poisson_arrivals_s(plan.rate_per_s or 0.0, plan.total_s, plan.seed)
        gives_up_s = start_s + plan.total_s + GIVE_UP_S
        async with asyncio.TaskGroup() as group:
            with Pacer() as pacer:
                for arrival_s in arrivals_s.tolist():
                    intended_s = start_s + arrival_s
                    await pacer.wait_until(intended_s)
                    if time.perf_counter() > gives_up_s:
                        block.failed += 1
                        block.first_failure = block.first_failure or "not sent in time"
                        continue
                    group.create_task(self._call(block, start_s, intended_s))

    async def _call(self, block: Block, start_s: float, intended_s: float) -> None:
        counted = intended_s - start_s >= block.plan.warm_up_s
        if counted:
            block.lag_s.append(time.perf_counter() - intended_s)
        try:
            await self.connection.call(next(self._requests))
        except CallError as error:
            block.failed += counted
            block.first_failure = block.first_failure or str(error)
            return
        done_s = time.perf_counter()
        block.all_answers += 1
        if block.plan.warm_up_s <= done_s - start_s < block.plan.total_s:
            block.done_in_time += 1
        if counted:
            block.latency_s.append(done_s - intended_s)
