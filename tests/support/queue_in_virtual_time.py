"""A server of one worker in virtual time, measured by the bench's own loops."""

import asyncio
from collections.abc import Awaitable, Callable

from support.virtual_time import Clock, run_virtually

from mmsr.engine.bench.load import Measured, Timing, measure
from mmsr.engine.bench.pacer import Waits
from mmsr.engine.bench.plan import RunPlan
from mmsr.engine.bench.samples import OK, Answer


class VirtualPacer:
    """Waits on the loop's own timer, which is exact in virtual time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __enter__(self) -> Waits:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    async def wait_until(self, instant_s: float) -> None:
        """Return at the instant: rounding may wake a moment early, so again."""
        while (wait_s := instant_s - self._clock.now) > 0:
            await asyncio.sleep(wait_s)


class OneWorker:
    """Serves in the order of arrival, each request for `service_s`, but not while it stalls."""

    def __init__(
        self, clock: Clock, service_s: float, ready_at: Callable[[float], float] | None = None
    ) -> None:
        self._clock = clock
        self._service_s = service_s
        self._free_at = 0.0
        self._ready_at = ready_at or (lambda at: at)  # when a request of that instant may begin

    def begin(self, request: bytes) -> Awaitable[bytes]:
        """Queue a request."""
        del request
        begins = self._ready_at(max(self._clock.now, self._free_at))
        self._free_at = begins + self._service_s
        return self._wait(self._free_at)

    async def _wait(self, until: float) -> bytes:
        while (wait_s := until - self._clock.now) > 0:
            await asyncio.sleep(wait_s)
        return b""

    async def finish(self, reply: Awaitable[bytes]) -> tuple[int, Answer]:
        """Wait for the reply."""
        await reply
        return OK, Answer(batch_size=1, version=1)


def measure_virtually(
    plan: RunPlan, service_s: float, ready_at: Callable[[float], float] | None = None
) -> Measured:
    """Run the plan against one worker; takes no real time but that of computing."""
    clock = Clock()
    timing = Timing(clock=clock, pacer=lambda: VirtualPacer(clock))

    async def main() -> Measured:
        worker = OneWorker(clock, service_s, ready_at)
        return await measure(plan, worker, [b"r"], asyncio.Event(), timing=timing)

    return run_virtually(clock, main())


def stalled(period_s: float, stall_s: float) -> Callable[[float], float]:
    """Return when a request may begin that comes at an instant, if each period ends in a stall."""

    def ready_at(at: float) -> float:
        return at if at % period_s < period_s - stall_s else (at // period_s + 1) * period_s

    return ready_at
