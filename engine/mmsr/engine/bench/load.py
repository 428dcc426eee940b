"""Sends the requests of one run: closed loop or open loop. Knows gRPC only as a `Caller`.

Closed loop: each of `concurrency` callers sends its next request when the last one ended. It
finds the server's throughput, and hides waiting: while the server stalls, nobody asks.
Open loop: requests are sent at Poisson times whatever the server does, and latency counts from
the intended time, so that a stall is felt by all who would have come meanwhile.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from mmsr.engine.bench.arrivals import poisson_arrivals_s
from mmsr.engine.bench.pacer import Pacer
from mmsr.engine.bench.plan import RunPlan
from mmsr.engine.bench.samples import NO_ANSWER, UNFINISHED, UNSENT, Answer, Recorder, Samples

START_DELAY_S = 0.02  # so that the arrival times are drawn before the first of them
GIVE_UP_S = 0.1  # after the last arrival: a generator this late is measuring itself


class Caller(Protocol):
    """An open connection. In two steps, so that a request is on its way when `begin` returns."""

    def begin(self, request: bytes) -> Awaitable[bytes]:
        """Send an encoded request now."""
        ...

    async def finish(self, reply: Awaitable[bytes]) -> tuple[int, Answer]:
        """Wait for the reply; a failed call is a status, not an exception."""
        ...


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The samples of a run and what it took to make them."""

    samples: Samples
    sent_for_s: float  # how long requests were sent, warm-up included; less when interrupted
    cpu_s: float  # of this process: the generator's own cost
    interrupted: bool


async def measure(
    plan: RunPlan, caller: Caller, requests: list[bytes], stop: asyncio.Event
) -> Measured:
    """Run the plan; `stop` ends it early, and what was measured so far is returned."""
    is_open = plan.rate_per_s is not None
    start_s = time.perf_counter() + (START_DELAY_S if is_open else 0.0)
    recorder = Recorder(start_s)
    run = _Run(plan, caller, requests, recorder, start_s)
    cpu_s = time.process_time()
    driver = asyncio.create_task(run.open() if is_open else run.closed())
    stopper = asyncio.create_task(stop.wait())
    await asyncio.wait({driver, stopper}, return_when=asyncio.FIRST_COMPLETED)
    sent_for_s = min(plan.window.total_s, time.perf_counter() - start_s)
    interrupted = not driver.done()
    driver.cancel()
    stopper.cancel()
    results = await asyncio.gather(driver, stopper, return_exceptions=True)
    if isinstance(results[0], Exception):
        raise results[0]
    return Measured(
        samples=recorder.samples(),
        sent_for_s=max(0.0, sent_for_s),
        cpu_s=time.process_time() - cpu_s,
        interrupted=interrupted,
    )


class _Run:
    """One run under way."""

    def __init__(
        self,
        plan: RunPlan,
        caller: Caller,
        requests: list[bytes],
        recorder: Recorder,
        start_s: float,
    ) -> None:
        self._plan = plan
        self._caller = caller
        self._requests = itertools.cycle(requests)
        self._recorder = recorder
        self._start_s = start_s

    async def closed(self) -> None:
        """Keep `concurrency` requests under way until the time is over."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._plan.concurrency or 0):
                group.create_task(self._call_on())

    async def open(self) -> None:
        """Send each request at its Poisson time, then wait for the last answers."""
        plan = self._plan
        arrivals_s = poisson_arrivals_s(
            plan.rate_per_s or 0.0, plan.window.total_s, plan.window.seed
        )
        give_up_s = self._start_s + plan.window.total_s + GIVE_UP_S
        async with asyncio.TaskGroup() as group:
            with Pacer() as pacer:
                for arrival_s in arrivals_s.tolist():
                    intended_s = self._start_s + arrival_s
                    await pacer.wait_until(intended_s)
                    if time.perf_counter() > give_up_s:
                        self._skip(intended_s)
                        continue
                    sent_s = time.perf_counter()
                    reply = self._caller.begin(next(self._requests))
                    group.create_task(self._finish(intended_s, sent_s, reply))

    async def _call_on(self) -> None:
        end_s = self._start_s + self._plan.window.total_s
        while (now_s := time.perf_counter()) < end_s:
            await self._finish(now_s, now_s, self._caller.begin(next(self._requests)))

    def _skip(self, intended_s: float) -> None:
        now_s = time.perf_counter()
        self._recorder.add((intended_s, now_s, now_s), UNSENT, NO_ANSWER)

    async def _finish(self, intended_s: float, sent_s: float, reply: Awaitable[bytes]) -> None:
        status, answer = UNFINISHED, NO_ANSWER
        try:
            status, answer = await self._caller.finish(reply)
        finally:  # an interrupted run cancels this; the request is counted all the same
            self._recorder.add((intended_s, sent_s, time.perf_counter()), status, answer)
