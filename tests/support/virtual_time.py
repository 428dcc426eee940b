"""An event loop whose clock jumps to the next timer, and a compute thread that lives on it."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from mmsr.engine.compute import Done

T = TypeVar("T")


class Clock:
    """Seconds that only move when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Stuck(Exception):  # noqa: N818 - reads as a verdict
    """Nothing is scheduled any more, and the test has not ended: something hangs."""


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck
        self._clock.now += max(0.0, timeout)
        ready: list[Any] = super().select(0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Real asyncio in virtual time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(_JumpingSelector(clock))
        self._virtual = clock

    def time(self) -> float:
        return self._virtual.now


class VirtualCompute:
    """Ends each call `cost_s(number of jobs)` after it was submitted, one at a time.

    The call itself runs at its end, with the clock set back to its beginning, and the job
    function moves the clock on: so what measures the call sees its cost.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.cost_s = 0.0
        self.busy = False

    def submit(self, call: Callable[[], object], done: Done) -> None:
        assert not self.busy, "two computations at a time"
        self.busy = True
        began, cost_s = self.clock.now, self.cost_s
        asyncio.get_running_loop().call_later(cost_s, self._end, call, done, (began, cost_s))

    def _end(self, call: Callable[[], object], done: Done, span: tuple[float, float]) -> None:
        self.busy = False
        self.clock.now = span[0]
        result, failure = None, None
        try:
            result = call()
        except Exception as error:
            failure = error
        self.clock.now = max(self.clock.now, span[0] + span[1])
        done(result, failure)


def run_virtually(clock: Clock, main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end in virtual time; `Stuck` if it waits for what never comes."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        return runner.run(main)
