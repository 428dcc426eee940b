"""Single computations between the batches, in the thread that computes these.

One at a time and in pieces: after each piece a waiting batch goes first. Knows nothing of what is
computed.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from mmsr.engine.batch_times import BatchTimes
from mmsr.engine.compute import Compute, outcome
from mmsr.engine.errors import DeadlineTooShort, Overloaded, Unavailable

Result = TypeVar("Result")

LIMIT = 64  # computations that wait or run; more are refused


class Asides:
    """The queue of the computations that are no batch. Made and used on one event loop."""

    def __init__(self, compute: Compute, *, clock: Callable[[], float], limit: int = LIMIT) -> None:
        self._compute = compute
        self._clock = clock
        self._limit = limit
        self._turn = asyncio.Lock()
        self._count = 0
        self._visitors = 0
        self._ahead_s = 0.0  # predicted, of all that wait or run
        self._drained: asyncio.Event | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing waits, nothing is computed and nobody is about to ask for it."""
        return not self._count and not self._visitors

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Let `drain` wait for a caller that does something else before its turn comes.

        `Unavailable` if it has begun already; turns within are not refused for it.
        """
        self._refuse_if_drained()
        self._visitors += 1
        try:
            yield
        finally:
            self._visitors -= 1
            self._tell_if_drained()

    @asynccontextmanager
    async def turn(
        self, times: BatchTimes, size: int, deadline: float | None
    ) -> AsyncIterator[None]:
        """Wait for one's turn; within it, `piece` computes. `times` learns how long it takes.

        `Overloaded`, `DeadlineTooShort` (by what a computation of `size` has taken, batches between
        its pieces included), `Unavailable`: refused at once, or expired while it waited.
        """
        predicted_s = times.predict(size)
        self._admit(predicted_s, deadline)
        self._count += 1
        self._ahead_s += predicted_s
        try:
            async with self._turn:
                began = self._clock()
                if deadline is not None and deadline <= began:
                    raise DeadlineTooShort("the deadline passed in the queue; nothing was computed")
                yield
                times.record(size, self._clock() - began)
        finally:
            self._count -= 1
            self._ahead_s -= predicted_s
            self._tell_if_drained()

    async def piece(self, call: Callable[[], Result]) -> Result:
        """Compute; what `call` raises is raised here."""
        return await outcome(self._compute, call)

    async def drain(self) -> None:
        """Refuse what is new from now on; return when all else is done."""
        if self._drained is None:
            self._drained = asyncio.Event()
        if self.idle:
            self._drained.set()
        await self._drained.wait()

    def _refuse_if_drained(self) -> None:
        if self._drained is not None:
            raise Unavailable("the server is stopping; send the request to another one")

    def _tell_if_drained(self) -> None:
        if self._drained is not None and self.idle:
            self._drained.set()

    def _admit(self, predicted_s: float, deadline: float | None) -> None:
        if not self._visitors:
            self._refuse_if_drained()
        if self._count >= self._limit:
            retry_ms = max(1, math.ceil(1e3 * self._ahead_s))
            raise Overloaded(
                f"{self._count} of these requests are waiting, the limit; retry in {retry_ms} ms",
                retry_ms,
            )
        if deadline is None:
            return
        left_s = deadline - self._clock()
        # Without others before it, it is tried: a wrong prediction is to be measured anew.
        total_s = self._ahead_s + predicted_s if self._count else 0.0
        if left_s <= 0 or left_s < total_s:
            raise DeadlineTooShort(
                f"{1e3 * max(0.0, left_s):.0f} ms are left, the answer would take about "
                f"{1e3 * (self._ahead_s + predicted_s):.0f} ms; nothing was computed"
            )
