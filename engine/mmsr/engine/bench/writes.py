"""Which writes a catalogue gets, and when an answer shows one. Pure.

Every write is of a made-up item that nobody else writes: it comes, may not be bought, may be bought
again, and is deleted. So a catalogue is afterwards what it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mmsr.engine.bench.samples import OK

NEW, OFF, ON, DELETED = "new item", "unavailable", "available again", "deleted"
KINDS = (NEW, OFF, ON, DELETED)  # of one item, in this order
IS_THERE = {NEW: True, OFF: False, ON: True, DELETED: False}  # in the answers, afterwards
CONFIRMATIONS = 3  # answers in agreement, of requests that began after the acknowledgement


@dataclass
class Lane:
    """One made-up item at a time, and what is to be done with it next."""

    prefix: str  # of the items' ids
    number: int = 0
    step: int = 0  # of KINDS

    def next_write(self) -> tuple[str, str]:
        """Return the kind of the next write, and the item's id."""
        if self.step == 0:
            self.number += 1
        return KINDS[self.step], f"{self.prefix}-{self.number}"

    def ended(self, shown: bool) -> None:
        """Go on after a write; of an item whose state nobody knows nothing more is asked."""
        self.step = (self.step + 1) % len(KINDS) if shown else 0

    @property
    def item_ids(self) -> list[str]:
        """Return the ids of all items so far."""
        return [f"{self.prefix}-{number}" for number in range(1, self.number + 1)]


class Look(NamedTuple):
    """One answer to the question whether an item is there."""

    sent_s: float
    done_s: float
    shows: bool  # the write


class Seen(NamedTuple):
    """When a write was first shown for good."""

    at_s: float  # the answer's arrival
    gap_s: float  # before its request was sent, nobody had asked for so long


@dataclass(kw_only=True)
class Write:
    """One write under way. Times are instants of one clock, in seconds."""

    kind: str
    item_id: str
    intended_s: float
    ready_s: float  # the same, or later where every item waited for the server
    sent_s: float
    status: int | None = None  # None: not acknowledged yet
    acknowledged_s: float = 0.0
    encode_us: int = 0
    looks: list[Look] = field(default_factory=list)
    asked: int = 0  # questions that are not answered yet

    @property
    def confirmed(self) -> bool:
        """Tell whether enough requests that began after the acknowledgement show it."""
        return (
            self.status == OK
            and sum(look.shows for look in self.looks if look.sent_s >= self.acknowledged_s)
            >= CONFIRMATIONS
        )

    @property
    def stale(self) -> int:
        """Return how many requests began after the acknowledgement and do not show it."""
        if self.status != OK:
            return 0
        return sum(not k.shows for k in self.looks if k.sent_s >= self.acknowledged_s)

    def seen(self) -> Seen | None:
        """Return the first answer that shows it and was asked for after the last that does not."""
        lacked_s = max((look.sent_s for look in self.looks if not look.shows), default=self.sent_s)
        showing = [look for look in self.looks if look.shows and look.sent_s >= lacked_s]
        if not showing:
            return None
        first = min(showing, key=lambda look: look.done_s)
        before_s = max(
            (look.sent_s for look in self.looks if look.sent_s < first.sent_s),
            default=self.sent_s,
        )
        return Seen(first.done_s, first.sent_s - before_s)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What became of one write; times from the instant at which it was meant to be sent."""

    kind: str
    window: int
    intended_s: float  # since the beginning of the window, warm-up included
    lag_ms: float  # of the generator, not of the server
    status: int
    acknowledged_ms: float | None
    shown_ms: float | None  # None: not within the deadline
    gap_ms: float | None  # of which so much, at most, is due to asking every so often only
    stale: int
    encode_ms: float


def written(write: Write, window: int, start_s: float, unfinished: int) -> Written:
    """Return a write that nobody waits for any more; `unfinished` is the status of no status."""
    seen = write.seen() if write.confirmed else None
    acknowledged = write.status == OK
    return Written(
        kind=write.kind,
        window=window,
        intended_s=write.intended_s - start_s,
        lag_ms=(write.sent_s - write.ready_s) * 1e3,
        status=unfinished if write.status is None else write.status,
        acknowledged_ms=(write.acknowledged_s - write.intended_s) * 1e3 if acknowledged else None,
        shown_ms=None if seen is None else (seen.at_s - write.intended_s) * 1e3,
        gap_ms=None if seen is None else seen.gap_s * 1e3,
        stale=write.stale,
        encode_ms=write.encode_us / 1e3,
    )


def asked_ids(pending: Sequence[Write], last: str) -> list[str]:
    """Return the ids to ask for: those of the writes that are waited for, else the last one."""
    return list(dict.fromkeys(write.item_id for write in pending)) or [last]
