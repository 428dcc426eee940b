"""Sends the requests of one run: closed loop or open loop. Knows gRPC only as a `Caller`.

Closed loop: each of `concurrency` callers sends its next request when the last one ended. It
finds the server's throughput, and hides waiting: while the server stalls, nobody asks.
Open loop: requests are sent at their times whatever the server does, and latency counts from
the intended time, so that a stall is felt by all who would have come meanwhile.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from mmsr.engine.bench.arrivals import (
    IN_ORDER,
    arrival_times_s,
    history_order,
    part_of,
    share_of,
)
from mmsr.engine.bench.pacer import Pacer, Waits
from mmsr.engine.bench.plan import RunPlan
from mmsr.engine.bench.samples import NO_ANSWER, UNFINISHED, UNSENT, Answer, Recorder, Samples

START_DELAY_S = 0.02  # so that the arrival times are drawn before the first of them
GIVE_UP_S = 0.1  # after the last arrival: a generator this late is measuring itself
CLOSED_ORDER = 1 << 16  # histories are drawn so many at a time; then the draw repeats


class Caller(Protocol):
    """An open connection. In two steps, so that a request is on its way when `begin` returns."""

    def begin(self, request: bytes) -> Awaitable[bytes]:
        """Send an encoded request now."""
        ...

    async def finish(self, reply: Awaitable[bytes]) -> tuple[int, Answer]:
        """Wait for the reply; a failed call is a status, not an exception."""
        ...


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What tells the time and waits for it. The same instants for every process of a machine."""

    clock: Callable[[], float] = time.perf_counter
    pacer: Callable[[], Waits] = Pacer
    start_s: float | None = None  # when to begin; None: at once


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which part of a run's requests this process sends."""

    rank: int = 0
    processes: int = 1


REAL_TIME = Timing()
ALL = Share()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The samples of a run and what it took to make them."""

    samples: Samples
    sent_for_s: float  # how long requests were sent, warm-up included; less when interrupted
    cpu_s: float  # of this process: the generator's own cost
    interrupted: bool


async def measure(
    plan: RunPlan,
    caller: Caller,
    requests: list[bytes],
    stop: asyncio.Event,
    share: Share = ALL,
    timing: Timing = REAL_TIME,
) -> Measured:
    """Run the plan; `stop` ends it early, and what was measured so far is returned."""
    run = _Run(plan, caller, requests, share, timing)
    cpu_s = time.process_time()
    driver = asyncio.create_task(run.open() if plan.is_open else run.closed())
    stopper = asyncio.create_task(stop.wait())
    await asyncio.wait({driver, stopper}, return_when=asyncio.FIRST_COMPLETED)
    sent_for_s = min(plan.window.total_s, timing.clock() - run.start_s)
    interrupted = not driver.done()
    driver.cancel()
    stopper.cancel()
    results = await asyncio.gather(driver, stopper, return_exceptions=True)
    if isinstance(results[0], Exception):
        raise results[0]
    return Measured(
        samples=run.recorder.samples(),
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
        share: Share,
        timing: Timing,
    ) -> None:
        self._plan = plan
        self._caller = caller
        self._requests = requests
        self._share = share
        self._clock = timing.clock
        self._pacer = timing.pacer
        delay_s = START_DELAY_S if plan.is_open else 0.0
        self.start_s = timing.clock() + delay_s if timing.start_s is None else timing.start_s
        self.recorder = Recorder(self.start_s)

    async def closed(self) -> None:
        """Keep this process's part of `concurrency` requests under way until the time is over."""
        callers = part_of(self._plan.concurrency or 0, self._share.rank, self._share.processes)
        requests = self._closed_requests()
        with self._pacer() as pacer:
            await pacer.wait_until(self.start_s)
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(self._call_on(requests))

    async def open(self) -> None:
        """Send each request at its time, then wait for the last answers."""
        give_up_s = self.start_s + self._plan.window.total_s + GIVE_UP_S
        arrivals = self._arrivals()
        async with asyncio.TaskGroup() as group:
            with self._pacer() as pacer:
                for intended_s, request in arrivals:
                    await pacer.wait_until(intended_s)
                    sent_s = self._clock()
                    if sent_s > give_up_s:
                        self.recorder.add((intended_s, sent_s, sent_s), UNSENT, NO_ANSWER)
                        continue
                    reply = self._caller.begin(request)
                    group.create_task(self._finish(intended_s, sent_s, reply))

    def _arrivals(self) -> list[tuple[float, bytes]]:
        """Return when this process sends what."""
        plan, share = self._plan, self._share
        seed = plan.window.seed
        times_A = arrival_times_s(plan.segments, plan.traffic.arrivals, seed)
        order_A = history_order(len(times_A), len(self._requests), plan.traffic.choice, seed)
        mine = share_of(len(times_A), share.rank, share.processes, seed)
        instants = (self.start_s + times_A[mine]).tolist()
        requests = [self._requests[history] for history in order_A[mine].tolist()]
        return list(zip(instants, requests, strict=True))

    def _closed_requests(self) -> Iterator[bytes]:
        """Give this process's requests without end; processes begin at different places."""
        plan, share, histories = self._plan, self._share, len(self._requests)
        count = histories if plan.traffic.choice == IN_ORDER else CLOSED_ORDER
        order = history_order(count, histories, plan.traffic.choice, plan.window.seed).tolist()
        begin = count * share.rank // share.processes
        return itertools.cycle([self._requests[i] for i in (*order[begin:], *order[:begin])])

    async def _call_on(self, requests: Iterator[bytes]) -> None:
        end_s = self.start_s + self._plan.window.total_s
        while (now_s := self._clock()) < end_s:
            await self._finish(now_s, now_s, self._caller.begin(next(requests)))

    async def _finish(self, intended_s: float, sent_s: float, reply: Awaitable[bytes]) -> None:
        status, answer = UNFINISHED, NO_ANSWER
        try:
            status, answer = await self._caller.finish(reply)
        finally:  # an interrupted run cancels this; the request is counted all the same
            self.recorder.add((intended_s, sent_s, self._clock()), status, answer)
