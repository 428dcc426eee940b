"""Counts the calls under way by when they began. Knows nothing of what they do.

What a new deployment has replaced may go when every call that could have met it has ended: a call
may look it up and use it after waiting for something else.
"""

import asyncio


class Era:
    """The calls that began between two changes."""

    __slots__ = ("calls", "over")

    def __init__(self) -> None:
        self.calls = 0
        self.over: asyncio.Event | None = None  # once no call joins any more


class Flights:
    """The calls of a server; everything runs on the event loop's thread."""

    def __init__(self) -> None:
        self._now = Era()
        self._before: list[Era] = []

    @property
    def count(self) -> int:
        """How many calls are under way."""
        return self._now.calls + sum(era.calls for era in self._before)

    def begin(self) -> Era:
        """Note that a call begins; its `end` wants the era."""
        self._now.calls += 1
        return self._now

    def end(self, era: Era) -> None:
        """Note that a call ended."""
        era.calls -= 1
        if not era.calls and era.over is not None:
            era.over.set()

    def mark(self) -> tuple[Era, ...]:
        """Return the eras of the calls under way; those that begin from now on are in none."""
        if self._now.calls:
            self._now.over = asyncio.Event()
            self._before.append(self._now)
            self._now = Era()
        self._before = [era for era in self._before if era.calls]
        return tuple(self._before)

    async def landed(self, eras: tuple[Era, ...]) -> None:
        """Return when every call of these eras has ended."""
        for era in eras:
            assert era.over is not None
            await era.over.wait()
