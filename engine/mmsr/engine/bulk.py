"""Many requests of one call: queued together, answered together, each with its own end.

Knows nothing of gRPC; the event loop is left free after every few requests, so that other callers
need not wait for a call of a thousand.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from mmsr.engine.errors import EngineError, Unavailable
from mmsr.engine.query import Reply
from mmsr.engine.service import Begun, Service

Request = TypeVar("Request")
Answer = TypeVar("Answer")

TOGETHER = 64  # requests between two looks at the event loop: about a millisecond


class Queued(NamedTuple):
    """A request that was taken on."""

    service: Service
    begun: Begun

    async def reply(self) -> Reply:
        """Return the reply, or raise why there is none."""
        return await self.service.settled(self.begun)

    def withdraw(self) -> None:
        """Take the request back."""
        if self.begun.ticket is not None:
            self.service.batcher.withdraw(self.begun.ticket)


class Bulk(Generic[Request, Answer]):
    """How the requests of a call begin, and what becomes of each: a reply or an error."""

    def __init__(
        self,
        begin: Callable[[Request], Queued],
        answered: Callable[[Queued, Reply], Answer],
        failed: Callable[[EngineError], Answer],
    ) -> None:
        self._begin = begin
        self._answered = answered
        self._failed = failed

    async def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Return one answer a request, in their order.

        `Unavailable` ends the whole call, as another server could answer all of it. Cancelling it
        takes back what has not begun to run.
        """
        begun: list[Queued | EngineError] = []
        try:
            for part in _parts(requests):
                for request in part:
                    begun.append(self._begin_one(request))
                await asyncio.sleep(0)
            waiting = [
                q.begun.ticket.future for q in begun if isinstance(q, Queued) and q.begun.ticket
            ]
            if waiting:
                await asyncio.wait(waiting)
        except (asyncio.CancelledError, Unavailable):
            for queued in begun:
                if isinstance(queued, Queued):
                    queued.withdraw()
            raise
        answers: list[Answer] = []
        for some in _parts(begun):
            answers += [await self._end_one(queued) for queued in some]
            await asyncio.sleep(0)
        return answers

    def _begin_one(self, request: Request) -> Queued | EngineError:
        try:
            return self._begin(request)
        except Unavailable:
            raise
        except EngineError as error:
            return error

    async def _end_one(self, queued: Queued | EngineError) -> Answer:
        if isinstance(queued, EngineError):
            return self._failed(queued)
        try:
            return self._answered(queued, await queued.reply())
        except EngineError as error:
            return self._failed(error)


def _parts(values: Sequence[Request]) -> Iterator[Sequence[Request]]:
    return (values[begin : begin + TOGETHER] for begin in range(0, len(values), TOGETHER))
