"""Groups waiting jobs into batches, one batch at a time. Knows nothing of gRPC, items or models.

When the computing thread is free it takes what is queued, up to `max_batch`; what arrives meanwhile
forms the next batch. Everything but the computation runs on the event loop's thread.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from mmsr.engine.batch_times import BatchTimes
from mmsr.engine.compute import Compute
from mmsr.engine.config import BatchConfig
from mmsr.engine.errors import (
    DeadlineTooShort,
    EngineError,
    Overloaded,
    RunnerFailed,
    Unavailable,
)
from mmsr.engine.lanes import Lanes, Waiting

Job = TypeVar("Job")
Answer = TypeVar("Answer")
log = logging.getLogger(__name__)

SIZE_BOUNDS = tuple(1 << power for power in range(11))  # jobs
TIMER_RESOLUTION_S = 0.0005  # event loops round timers to a millisecond


class Ride(NamedTuple, Generic[Answer]):
    """A job's answer and the batch that it rode in."""

    answer: Answer
    queue_us: int  # from submission to the start of the computation
    compute_us: int
    batch_size: int


class _Computed(NamedTuple, Generic[Answer]):
    answers: Sequence[Answer]
    started: float
    ended: float


Ticket: TypeAlias = Waiting[Job, Ride[Answer]]


@dataclass(kw_only=True, slots=True)
class Counters:
    """What was done since the start."""

    answered: int = 0  # jobs
    refused: int = 0  # jobs, at once or because they expired in the queue
    batches: int = 0
    jobs: int = 0  # that were computed, the cancelled ones among them
    busy_s: float = 0.0  # of the computing thread
    sizes: list[int] = field(default_factory=lambda: [0] * (len(SIZE_BOUNDS) + 1))  # of batches

    def computed(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self.batches += 1
        self.jobs += size
        self.busy_s += seconds
        self.sizes[min((size - 1).bit_length(), len(SIZE_BOUNDS))] += 1


class Batcher(Generic[Job, Answer]):
    """The queue before one computing thread.

    `run` maps a list of jobs to as many answers, in order; it is called by `compute`, never
    twice at a time. Made and used on one event loop. `clock` gives seconds; deadlines are points
    of that clock. `length` is that of a job's history: the longest one of a batch is what all of
    it are padded to.
    """

    def __init__(
        self,
        run: Callable[[list[Job]], Sequence[Answer]],
        compute: Compute,
        config: BatchConfig,
        *,
        clock: Callable[[], float],
        times: BatchTimes,
        length: Callable[[Job], int] = lambda job: 1,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._run = run
        self._compute = compute
        self._config = config
        self._clock = clock
        self._times = times
        self._length = length
        self._max_wait_s = config.max_wait_ms / 1e3
        # A batch of bulk jobs alone is what the first single request after a quiet time waits for.
        bulk_batch = times.efficient(config.max_batch, config.bulk_rate, config.bulk_ms / 1e3)
        self._queue = Lanes[Job, Ride[Answer]](config, bulk_batch)
        self._running_until: float | None = None  # predicted end of the batch being computed
        self._running = 0  # jobs in that batch
        self._start_soon = False
        self._timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Event | None = None
        self.counters = Counters()

    @property
    def depth(self) -> int:
        """How many jobs wait."""
        return len(self._queue)

    @property
    def unanswered(self) -> int:
        """How many jobs wait or are being computed."""
        return len(self._queue) + self._running

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is computed."""
        return self._running_until is None and not self._queue

    async def submit(
        self, job: Job, deadline: float | None = None, *, bulk: bool = False
    ) -> Ride[Answer]:
        """Queue a job and wait for its answer.

        `Overloaded`, `DeadlineTooShort`, `Unavailable` (draining): refused at once, or expired
        in the queue. `RunnerFailed`: `run` raised. Cancelling the call takes the job back.
        """
        ticket = self.enqueue(job, deadline, bulk=bulk)
        try:
            return await ticket.future
        except asyncio.CancelledError:
            self.withdraw(ticket)
            raise

    def enqueue(
        self, job: Job, deadline: float | None = None, *, bulk: bool = False
    ) -> Ticket[Job, Answer]:
        """Queue a job; its ticket holds the future of its ride. Raises what `submit` raises.

        `bulk`: it comes with many others in one call, and single requests go first. Whoever stops
        waiting for the future must `withdraw` the ticket.
        """
        now = self._clock()
        try:
            self._admit(now, deadline, bulk)
        except EngineError:
            self.counters.refused += 1
            raise
        future: asyncio.Future[Ride[Answer]] = self._loop.create_future()
        ticket: Ticket[Job, Answer] = Waiting(job, self._length(job), deadline, future)
        self._queue.add(ticket, now, bulk=bulk)
        self._wake(now)
        return ticket

    def withdraw(self, ticket: Ticket[Job, Answer]) -> None:
        """Take a job back, if it has not begun to run; nobody asks for its outcome any more."""
        if not ticket.future.cancel() and not ticket.future.cancelled():
            ticket.future.exception()  # else asyncio would complain that nobody has looked
        self._queue.remove(ticket)

    async def drain(self) -> None:
        """Refuse new jobs from now on; return when all queued ones are answered."""
        if self._drained is None:
            self._drained = asyncio.Event()
        if self.idle:
            self._drained.set()
        else:
            self._wake(self._clock())
        await self._drained.wait()

    def predicted_s(self, now: float, *, bulk: bool = False) -> float:
        """Return how long a job that arrives now would take until its answer.

        0 when nothing else is to be done: an idle thread is always tried, so that a prediction
        that has become wrong is measured anew.
        """
        if self._running_until is None:
            if not self._queue:
                return self._max_wait_s
            rest_s = 0.0
        else:
            rest_s = max(0.0, self._running_until - now)
        batches, jobs_before, jobs_with = self._queue.ahead(now, bulk=bulk)
        predict = self._times.predict
        return rest_s + (batches * predict(jobs_before) if batches else 0) + predict(jobs_with)

    def _admit(self, now: float, deadline: float | None, bulk: bool) -> None:
        if self._drained is not None:
            raise Unavailable("the server is stopping; send the request to another one")
        waiting = self._queue.waiting(bulk=bulk)
        if waiting >= (self._config.bulk_limit if bulk else self._config.queue_limit):
            retry_ms = max(1, math.ceil(1e3 * self.predicted_s(now, bulk=bulk)))
            raise Overloaded(
                f"{waiting} requests{' of batch calls' if bulk else ''} are waiting, the limit; "
                f"retry in {retry_ms} ms",
                retry_ms,
            )
        if deadline is not None:
            left_s = deadline - now
            if left_s <= 0 or left_s < (predicted_s := self.predicted_s(now, bulk=bulk)):
                raise DeadlineTooShort(_too_late(left_s, predicted_s if left_s > 0 else None))

    def _wake(self, now: float) -> None:
        """See to it that a batch starts when it should, unless the end of one will do so."""
        if self._running_until is not None or self._start_soon:
            return
        wait_s = self._wait_s(now) if self._max_wait_s else 0.0
        if wait_s <= TIMER_RESOLUTION_S:
            # Not at once: jobs that the event loop is about to submit still join this batch.
            self._start_soon = True
            self._loop.call_soon(self._start)
        elif self._timer is None:
            self._timer = self._loop.call_later(wait_s, self._start)

    def _wait_s(self, now: float) -> float:
        """Return how long the oldest job may still wait for company."""
        full = len(self._queue) >= self._config.max_batch
        if full or not self._queue or self._drained is not None:
            return 0.0
        return self._queue.oldest() + self._max_wait_s - now

    def _start(self) -> None:
        """Compute the next batch, if there is one and its time has come."""
        self._start_soon = False
        if self._running_until is not None:  # the timer was first, in the same turn of the loop
            return
        now = self._clock()
        if self._max_wait_s:
            self._stop_timer()
            if self._wait_s(now) > TIMER_RESOLUTION_S:  # the job that set the timer has gone
                self._wake(now)
                return
        batch = self._take(now)
        if batch:
            self._running_until = now + self._times.predict(len(batch))
            self._running = len(batch)
            jobs = [waiting.job for waiting in batch]
            self._compute.submit(partial(self._call, jobs), partial(self._finish, batch))
        elif self._drained is not None:
            self._drained.set()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _take(self, now: float) -> list[Ticket[Job, Answer]]:
        """Remove the next batch from the queue, and tell those that have expired."""
        batch, expired = self._queue.take(now)
        self.counters.refused += len(expired)
        for waiting in expired:
            assert waiting.deadline is not None
            waiting.future.set_exception(DeadlineTooShort(_too_late(waiting.deadline - now)))
        return batch

    def _call(self, jobs: list[Job]) -> _Computed[Answer]:
        """Run one batch; in the computing thread."""
        started = self._clock()
        answers = self._run(jobs)
        ended = self._clock()
        if len(answers) != len(jobs):
            raise RuntimeError(f"{len(answers)} answers to {len(jobs)} jobs")
        return _Computed(answers, started, ended)

    def _finish(
        self,
        batch: list[Ticket[Job, Answer]],
        computed: _Computed[Answer] | None,
        error: Exception | None,
    ) -> None:
        """Start the next batch, then hand out the answers of this one."""
        self._running_until = None
        self._running = 0
        if computed is not None:
            self._times.record(len(batch), computed.ended - computed.started)
        if self._queue or self._drained is not None:
            self._start()
        if computed is not None:
            self._deliver(batch, computed)
        else:
            log.error("a batch of %d failed", len(batch), exc_info=error)
            self._fail(batch)

    def _deliver(self, batch: list[Ticket[Job, Answer]], computed: _Computed[Answer]) -> None:
        size = len(batch)
        compute_us = round((computed.ended - computed.started) * 1e6)
        self.counters.computed(size, computed.ended - computed.started)
        for waiting, answer in zip(batch, computed.answers, strict=True):
            if waiting.future.done():  # cancelled meanwhile; setting a result would raise
                continue
            queue_us = round((computed.started - waiting.arrived) * 1e6)
            self.counters.answered += 1
            waiting.future.set_result(Ride(answer, queue_us, compute_us, size))

    def _fail(self, batch: list[Ticket[Job, Answer]]) -> None:
        for waiting in batch:
            if not waiting.future.done():
                waiting.future.set_exception(RunnerFailed("the computation failed"))


def _too_late(left_s: float, predicted_s: float | None = None) -> str:
    if predicted_s is None:
        return f"the deadline passed {max(0.0, -left_s) * 1e3:.0f} ms ago; nothing was computed"
    return (
        f"{left_s * 1e3:.0f} ms are left, the answer would take about {predicted_s * 1e3:.0f} ms; "
        "nothing was computed"
    )
