"""Many messages of one stream: answered as they are ready, those of equal keys in their order.

Knows nothing of gRPC or of what is asked.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from mmsr.engine.errors import Unavailable

Message = TypeVar("Message")
Answer = TypeVar("Answer")

IN_FLIGHT = 64  # messages of one stream; the next one is read when an answer has left


class KeyedStream(Generic[Message, Answer]):
    """Answers one stream; used once.

    `answer` must turn every error of a message into its answer: what it raises ends the stream.
    """

    def __init__(
        self,
        answer: Callable[[Message], Awaitable[Answer]],
        key_of: Callable[[Message], str],
        in_flight: int = IN_FLIGHT,
    ) -> None:
        self._answer = answer
        self._key_of = key_of
        self._free = asyncio.Semaphore(in_flight)
        self._ready: asyncio.Queue[Answer | None] = asyncio.Queue()  # None: that was all
        self._tasks: set[asyncio.Task[None]] = set()
        self._last: dict[str, asyncio.Task[None]] = {}  # of each key the newest message's
        self._failure: BaseException | None = None
        self._reading = False

    async def answers(
        self, messages: AsyncIterator[Message], stopped: asyncio.Event
    ) -> AsyncIterator[Answer]:
        """Yield one answer a message until the messages end.

        `Unavailable` once `stopped` is set: what was read is answered, nothing more is read.
        Raises what reading raises. Whoever stops iterating cancels what is in flight.
        """
        reader = asyncio.create_task(self._read(messages, stopped))
        watcher = asyncio.create_task(self._stop_reading(stopped, reader))
        try:
            while (answer := await self._ready.get()) is not None:
                yield answer
                self._free.release()
            if self._failure is not None:
                raise self._failure
            await reader
        finally:
            left = [reader, watcher, *self._tasks]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _read(self, messages: AsyncIterator[Message], stopped: asyncio.Event) -> None:
        self._reading = not stopped.is_set()
        try:
            if not self._reading:
                raise asyncio.CancelledError
            await self._free.acquire()
            async for message in messages:
                self._begin(message)
                await self._free.acquire()
        except asyncio.CancelledError:
            if not stopped.is_set():
                raise
            raise Unavailable(
                "the server is stopping; send what was not answered to another one"
            ) from None
        finally:
            self._reading = False
            if self._tasks:
                await asyncio.wait(self._tasks)
            self._ready.put_nowait(None)

    async def _stop_reading(self, stopped: asyncio.Event, reader: "asyncio.Task[None]") -> None:
        await stopped.wait()
        if self._reading:
            reader.cancel()

    def _begin(self, message: Message) -> None:
        key = self._key_of(message)
        task = asyncio.create_task(self._one(message, self._last.get(key)))
        self._tasks.add(task)
        self._last[key] = task
        task.add_done_callback(lambda done: self._end(done, key))

    async def _one(self, message: Message, before: "asyncio.Task[None] | None") -> None:
        answer = await self._answer(message)
        if before is not None and not before.done():
            await asyncio.wait({before})
        self._ready.put_nowait(answer)

    def _end(self, task: "asyncio.Task[None]", key: str) -> None:
        self._tasks.discard(task)
        if self._last.get(key) is task:
            del self._last[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
            self._ready.put_nowait(None)
