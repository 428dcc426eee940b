"""Who rides in the next batch: single requests first, those of bulk calls in the places left.

Pure bookkeeping; owns no clock and computes nothing.
"""

import asyncio
from collections import OrderedDict
from typing import Generic, NamedTuple, TypeVar

from mmsr.engine.config import BatchConfig

Job = TypeVar("Job")
Ride = TypeVar("Ride")

QUIET_S = 1.0  # without a single request: the batches are the bulk calls' alone


class Waiting(Generic[Job, Ride]):
    """A queued job and the future of its ride; compared by identity."""

    __slots__ = ("arrived", "bulk", "deadline", "future", "job", "length")

    def __init__(
        self, job: Job, length: int, deadline: float | None, future: asyncio.Future[Ride]
    ) -> None:
        self.job = job
        self.length = length  # of its history
        self.deadline = deadline
        self.future = future
        self.arrived = 0.0
        self.bulk = False


class Taken(NamedTuple, Generic[Job, Ride]):
    """What `Lanes.take` removes from the queue."""

    batch: list[Waiting[Job, Ride]]
    expired: list[Waiting[Job, Ride]]  # too late to be computed


class _Lane(Generic[Job, Ride]):
    """First in, first out; any job can be taken back."""

    def __init__(self) -> None:
        self.queue: OrderedDict[Waiting[Job, Ride], None] = OrderedDict()
        self.length = 0  # of all histories together

    def __len__(self) -> int:
        return len(self.queue)

    def add(self, waiting: Waiting[Job, Ride]) -> None:
        self.queue[waiting] = None
        self.length += waiting.length

    def remove(self, waiting: Waiting[Job, Ride]) -> None:
        if waiting in self.queue:
            del self.queue[waiting]
            self.length -= waiting.length

    @property
    def first(self) -> Waiting[Job, Ride] | None:
        return next(iter(self.queue), None)


class Lanes(Generic[Job, Ride]):
    """Two queues before one computing thread.

    A batch holds at most `max_batch` jobs, and at most `max_work` of jobs times their longest
    history, but always one job. While single requests come, those of bulk calls have `bulk_share`
    places of a batch, no more and no less. When none has come for `QUIET_S`, they have `bulk_batch`
    and no single request's place: the first one that comes then waits for what runs.
    """

    def __init__(self, config: BatchConfig, bulk_batch: int | None = None) -> None:
        """`bulk_batch`: None for `max_batch`; never less than the bulk calls' share."""
        self._config = config
        most = config.max_batch if bulk_batch is None else min(bulk_batch, config.max_batch)
        self._bulk_batch = max(most, config.bulk_places)
        self._single = _Lane[Job, Ride]()
        self._bulk = _Lane[Job, Ride]()
        self._last_single = float("-inf")  # when one arrived
        self._bulk_was_passed_over = False

    def __len__(self) -> int:
        return len(self._single) + len(self._bulk)

    def waiting(self, *, bulk: bool) -> int:
        """Return how many jobs of one lane wait."""
        return len(self._lane(bulk))

    def add(self, waiting: Waiting[Job, Ride], now: float, *, bulk: bool) -> None:
        """Queue a job at the end of its lane."""
        waiting.arrived, waiting.bulk = now, bulk
        if not bulk:
            self._last_single = now
        self._lane(bulk).add(waiting)

    def remove(self, waiting: Waiting[Job, Ride]) -> None:
        """Take a job back, if it still waits."""
        self._lane(waiting.bulk).remove(waiting)

    def oldest(self) -> float:
        """Return when the job arrived that waits longest; infinite if none waits."""
        firsts = (self._single.first, self._bulk.first)
        return min((first.arrived for first in firsts if first is not None), default=float("inf"))

    def ahead(self, now: float, *, bulk: bool) -> tuple[int, int, int]:
        """Tell a job that comes last in its lane what runs before it, and with it.

        How many batches run before its own, how many jobs are in each of them, how many in its own.
        """
        lane, other = self._lane(bulk), self._lane(not bulk)
        places = self._config.bulk_places  # of the bulk calls, once a single request has come
        room = self._share(now) if bulk else self._config.max_batch - self._reserved(places)
        company = min(len(other), self._config.max_batch - room)
        if lane.length:
            by_work = self._config.max_work * len(lane) // lane.length
            room = max(1, min(room, by_work - company))
        full, part = divmod(len(lane), room)
        return full, room + company, part + 1 + company

    def take(self, now: float) -> Taken[Job, Ride]:
        """Remove the next batch and what has expired before it; cancelled jobs just go."""
        taken = Taken[Job, Ride]([], [])
        share = self._share(now)
        most = self._config.max_batch
        if self._bulk_was_passed_over:  # long histories can leave it no place: then in turn
            self._fill(taken, self._bulk, share, now)
            self._fill(taken, self._single, most, now)
        else:
            self._fill(taken, self._single, most - self._reserved(share), now)
            self._fill(taken, self._bulk, min(most, len(taken.batch) + share), now)
            self._fill(taken, self._single, most, now)
        rides = any(waiting.bulk for waiting in taken.batch)
        self._bulk_was_passed_over = bool(len(self._bulk)) and not rides
        return taken

    def _share(self, now: float) -> int:
        """Return how many places of a batch are the bulk calls'."""
        quiet = not len(self._single) and now - self._last_single >= QUIET_S
        return self._bulk_batch if quiet else self._config.bulk_places

    def _reserved(self, share: int) -> int:
        """Return how many places single requests leave free; one is always theirs."""
        return min(share, len(self._bulk), self._config.max_batch - 1)

    def _fill(self, taken: Taken[Job, Ride], lane: _Lane[Job, Ride], size: int, now: float) -> None:
        """Move jobs from a lane to the batch until it has `size` of them or enough work."""
        batch = taken.batch
        longest = max((waiting.length for waiting in batch), default=0)
        while len(batch) < size and (waiting := lane.first) is not None:
            late = waiting.deadline is not None and waiting.deadline <= now
            if late or waiting.future.done():
                lane.remove(waiting)
                if late and not waiting.future.done():
                    taken.expired.append(waiting)
                continue
            longest = max(longest, waiting.length)
            if batch and (len(batch) + 1) * longest > self._config.max_work:
                return
            lane.remove(waiting)
            batch.append(waiting)

    def _lane(self, bulk: bool) -> _Lane[Job, Ride]:
        return self._bulk if bulk else self._single
