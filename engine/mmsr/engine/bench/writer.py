"""Writes to a catalogue at given times and asks at a constant rate until answers show each write.

Open loops, both: writes and questions are sent at their times whatever the server does. Questions
are asked whether or not something was written, so that a window without writes costs the server
as many. Knows gRPC only as a `Shop`.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mmsr.engine.bench.load import REAL_TIME, Timing
from mmsr.engine.bench.samples import OK, UNFINISHED
from mmsr.engine.bench.writes import IS_THERE, Lane, Look, Write, Written, asked_ids, written


class Receipt(NamedTuple):
    """What the server said to a write."""

    status: int
    encode_us: int = 0


class Shop(Protocol):
    """A server's catalogue and its recommendations."""

    async def write(self, kind: str, item_id: str) -> Receipt:
        """Make one change; a failed call is a status, not an exception."""
        ...

    async def there(self, item_ids: Sequence[str]) -> frozenset[str] | None:
        """Return which of the items are recommended; None if there was no answer."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often is asked, and how long a write is waited for."""

    probe_s: float
    patience_s: float  # for a write, from its sending


@dataclass(frozen=True, kw_only=True)
class Span:
    """One window: from when to when is asked, and when is written. Instants, in seconds."""

    number: int
    start_s: float
    end_s: float
    writes_s: Sequence[float]


class Writer:
    """Goes from window to window with the same items."""

    def __init__(
        self, shop: Shop, lanes: Sequence[Lane], pace: Pace, timing: Timing = REAL_TIME
    ) -> None:
        self._shop = shop
        self._pace = pace
        self._clock = timing.clock
        self._pacer = timing.pacer
        self._lanes = list(lanes)
        self._free = [(lane, -math.inf) for lane in lanes]  # and since when
        self._freed = asyncio.Event()
        self._pending: dict[int, tuple[Write, Lane]] = {}
        self._last = f"{lanes[0].prefix}-0"  # nobody's id
        self.done: list[Written] = []
        self.questions = 0

    @property
    def item_ids(self) -> list[str]:
        """Return every id that was ever written."""
        return [item_id for lane in self._lanes for item_id in lane.item_ids]

    async def run(self, span: Span) -> None:
        """Write and ask until the window ends and no write is waited for."""
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._write_all(span))
            group.create_task(self._ask_all(span, writing))

    async def _write_all(self, span: Span) -> None:
        async with asyncio.TaskGroup() as group:
            with self._pacer() as pacer:
                for intended_s in span.writes_s:
                    await pacer.wait_until(intended_s)
                    lane, free_s = await self._free_lane()
                    kind, item_id = lane.next_write()
                    write = Write(
                        kind=kind,
                        item_id=item_id,
                        intended_s=intended_s,
                        ready_s=max(intended_s, free_s),
                        sent_s=self._clock(),
                    )
                    group.create_task(self._send(write, lane, span))

    async def _free_lane(self) -> tuple[Lane, float]:
        """Return a lane, and since when one was free.

        The one written last: items go through all kinds of write, and few are there at once.
        """
        while not self._free:
            self._freed.clear()
            await self._freed.wait()
        since_s = min(free_s for _, free_s in self._free)
        return self._free.pop()[0], since_s

    async def _send(self, write: Write, lane: Lane, span: Span) -> None:
        write.sent_s = self._clock()
        self._pending[id(write)] = write, lane
        self._last = write.item_id
        receipt = await self._shop.write(write.kind, write.item_id)
        write.acknowledged_s = self._clock()
        write.status, write.encode_us = receipt
        if receipt.status != OK:
            self._settle(write, span)

    async def _ask_all(self, span: Span, writing: "asyncio.Task[None]") -> None:
        number = 0
        async with asyncio.TaskGroup() as group:
            with self._pacer() as pacer:
                while True:
                    at_s = span.start_s + number * self._pace.probe_s
                    if at_s >= span.end_s and writing.done() and not self._pending:
                        return
                    await pacer.wait_until(at_s)
                    now_s = self._clock()
                    self._give_up(now_s, span)
                    open_ = [w for w, _ in self._pending.values() if not w.confirmed]
                    group.create_task(self._look(open_, span))
                    # A question that is late is not made up for: the gap is measured.
                    passed = math.floor((now_s - span.start_s) / self._pace.probe_s)
                    number = max(number, passed) + 1

    def _give_up(self, now_s: float, span: Span) -> None:
        late_s = now_s - self._pace.patience_s
        for write, _ in list(self._pending.values()):
            if write.sent_s < late_s:
                self._settle(write, span)

    async def _look(self, writes: Sequence[Write], span: Span) -> None:
        sent_s = self._clock()
        self.questions += 1
        for write in writes:
            write.asked += 1
        there = await self._shop.there(asked_ids(writes, self._last))
        done_s = self._clock()
        for write in writes:
            write.asked -= 1
            if there is not None:
                shows = (write.item_id in there) == IS_THERE[write.kind]
                write.looks.append(Look(sent_s, done_s, shows))
            if write.confirmed and not write.asked:
                self._settle(write, span)

    def _settle(self, write: Write, span: Span) -> None:
        """Note what became of a write, once; its item is free for the next."""
        found = self._pending.pop(id(write), None)
        if found is None:
            return
        end = written(write, span.number, span.start_s, UNFINISHED)
        self.done.append(end)
        lane = found[1]
        lane.ended(end.shown_ms is not None)
        self._free.append((lane, self._clock()))
        self._freed.set()
