"""The one writer: takes messages as they come, keeps them, then shows them to every model.

Messages that wait together are kept in one commit. Runs on the event loop; what blocks runs in
threads that are handed in. Knows nothing of gRPC.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from math import inf, nextafter
from typing import Any, NamedTuple, Protocol

from mmsr.engine.catalogue.changes import Done, Job, Resolved, resolve, rows_needed
from mmsr.engine.catalogue.encoders import Encoders
from mmsr.engine.catalogue.features import complete, stored_features
from mmsr.engine.catalogue.live_rows import Change, LiveRows, Plan
from mmsr.engine.catalogue.records import Write
from mmsr.engine.catalogue.store import CatalogueStore
from mmsr.engine.errors import EngineError, RunnerFailed, Unavailable

log = logging.getLogger(__name__)
CARRIED_AT_ONCE = 512  # items of one step of a reload; their features are in memory together


class InThread(Protocol):
    """Runs blocking calls elsewhere, one after another."""

    def __call__(self, call: Callable[[], Any]) -> Awaitable[Any]:
        """Run it and return what it returns."""


class Attach(NamedTuple):
    """A model that is shown every change from now on; it shows those until `reached` already."""

    live: LiveRows
    reached: int


class _Waiting(NamedTuple):
    job: Job | Attach
    future: "asyncio.Future[Done]"


class Pump:
    """The queue before the store. `compute` runs calls between two batches."""

    def __init__(
        self,
        store: CatalogueStore,
        encoders: Encoders,
        compute: InThread,
        utc: Callable[[], float],
        group: int,
    ) -> None:
        self.attached: list[LiveRows] = []
        self.version = store.version()  # of the last change that is shown
        self._store = store
        self._encoders = encoders
        self._compute = compute
        self._utc = utc
        self._latest_s = -inf  # that was written, in seconds since 1970
        self._group = group  # messages of one commit, at most
        self._queue: deque[_Waiting] = deque()
        self._news = asyncio.Event()
        self._closed = False

    async def submit(self, job: Job | Attach) -> Done:
        """Queue a message; return when it is kept and shown."""
        if self._closed:
            raise Unavailable("the server is stopping; send the request to another one")
        future: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(job, future))
        self._news.set()
        return await future

    async def work(self, write: InThread) -> None:
        """Take messages until `close`; `write` is the thread that keeps them."""
        while await self._wait():
            group = self._take()
            step = asyncio.ensure_future(self._step(group, write))
            await asyncio.wait({step})
            if (error := step.exception()) is not None:
                _fail(group, error)
            del group, step  # they may hold a model that is to be freed

    def close(self) -> None:
        """End `work` when all that waits is done."""
        self._closed = True
        self._news.set()

    async def carry_over(self, live: LiveRows, after: int, thread: InThread) -> int:
        """Show a model that does not serve what was written after a version; return how many items.

        All in `thread`: serving goes on meanwhile.
        """
        version = await thread(self._store.version)
        item_ids = await thread(partial(self._store.changes, after))
        for begin in range(0, len(item_ids), CARRIED_AT_ONCE):
            some = item_ids[begin : begin + CARRIED_AT_ONCE]
            plan = await thread(partial(self._carried, live, some, version))
            await _show(live, plan, thread)  # no batch is computed with it yet
        live.index.version = version
        return len(item_ids)

    async def _wait(self) -> bool:
        while not self._queue:
            if self._closed:
                return False
            self._news.clear()
            await self._news.wait()
        return True

    def _take(self) -> list[_Waiting]:
        """Remove the next group: a model alone, or messages for which there are rows."""
        group = [self._queue.popleft()]
        if isinstance(group[0].job, Attach):
            return group
        rows = rows_needed(group[0].job)
        free = min((live.spare_rows for live in self.attached), default=0)
        while self._queue and len(group) < self._group:
            job = self._queue[0].job
            if isinstance(job, Attach) or rows + rows_needed(job) > free:
                break
            rows += rows_needed(job)
            group.append(self._queue.popleft())
        return group

    async def _step(self, group: Sequence[_Waiting], write: InThread) -> None:
        job = group[0].job
        if isinstance(job, Attach):
            await self.carry_over(job.live, job.reached, write)
            if not job.live.left:
                self.attached.append(job.live)
            outcomes = [Done(self.version)]
        else:
            jobs = [waiting.job for waiting in group if not isinstance(waiting.job, Attach)]
            models = tuple(self.attached)
            resolved, plans = await write(partial(self._keep, jobs, models))
            for live, plan in zip(models, plans, strict=True):
                await _show(live, plan, self._compute)
            self.version += 1
            outcomes = resolved.outcomes
        for waiting, outcome in zip(group, outcomes, strict=True):
            if not waiting.future.done():  # its caller has gone
                waiting.future.set_result(outcome)

    def _now_s(self, models: Sequence[LiveRows]) -> float:
        """Return the time of a write, of which a clock that was set back has no say.

        What is written now is newer than what was written before, and than the data of every bundle
        in use: a bundle takes older content for contained.
        """
        after = (nextafter(live.contained_until_s, inf) for live in models)
        self._latest_s = max(self._utc(), self._latest_s, *after)
        return self._latest_s

    def _keep(self, jobs: Sequence[Job], models: Sequence[LiveRows]) -> tuple[Resolved, list[Plan]]:
        """Make what is kept durable, once it is sure that it can be shown."""
        version = self.version + 1
        item_ids = list({item_id for job in jobs for item_id in job.item_ids})
        resolved = resolve(
            jobs,
            self._store.records(item_ids),
            lambda item_id: any(item_id in live.index for live in models),
            version,
            self._now_s(models),
        )
        writes = list(resolved.writes.values())
        plans: list[Plan] = []
        kept = False
        try:
            for live in models:
                writes = [self._complete(live, write) for write in writes]
                plans.append(live.plan([_change(write) for write in writes], version))
            self._store.commit(writes, version)
            kept = True
        finally:
            if not kept:
                for live, plan in zip(models, plans, strict=False):
                    live.give_back(plan)
        return resolved, plans

    def _complete(self, live: LiveRows, write: Write) -> Write:
        """Return a write with every feature that a model needs; nearly always it has them.

        Not if the model was attached while the message's images were encoded.
        """
        if write.features is None or write.record.content is None:
            return write
        have = dict(write.features)
        found = complete(write.record, write.image, live.reader, self._encoders, have)
        return write._replace(features=found)

    def _carried(self, live: LiveRows, item_ids: Sequence[str], version: int) -> Plan:
        records, kept = self._store.records(item_ids), self._store.features(item_ids)
        changes = []
        for item_id, record in records.items():
            found = None
            if record.content is not None and not live.contains(record):
                have = kept.get(item_id, {})
                found = stored_features(record, live.reader, self._encoders, self._store, have)
            changes.append(Change(record, found))
        return live.plan(changes, version)


async def _show(live: LiveRows, plan: Plan, thread: InThread) -> None:
    live.name(plan)
    left = await thread(partial(live.apply, plan))
    if not live.left:
        live.show(plan, left)


def _change(write: Write) -> Change:
    if write.features is None or write.record.content is None:
        return Change(write.record, None)
    return Change(write.record, dict(write.features))


def _fail(group: Sequence[_Waiting], error: BaseException) -> None:
    """Answer every message of a group with an error."""
    if not isinstance(error, EngineError):
        log.error("a change of the catalogue failed", exc_info=error)
        error = RunnerFailed("internal error")
    for waiting in group:
        if not waiting.future.done():
            waiting.future.set_exception(error)
