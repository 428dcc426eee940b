"""Follows the labels of a repository: where one moves, what answers under it moves too.

Asks again and again instead of being told: shared folders tell nobody. A label is a small file
that is opened each time, which over NFS is what asks the server.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.repository import LabelMove, Repository
from mmsr.engine.errors import EngineError
from mmsr.engine.reload import Reloader

log = logging.getLogger(__name__)

Position = LabelMove | None  # None: there is no such label


class Runs(Protocol):
    """A thread that may wait for files."""

    async def run(self, call: Callable[[], dict[str, Position]]) -> dict[str, Position]:
        """Call in the thread and wait for it."""


class Watch:
    """Looks at the labels every `poll_s` seconds."""

    def __init__(
        self, repository: Repository, reloader: Reloader, files: Runs, poll_s: float
    ) -> None:
        self._repository = repository
        self._reloader = reloader
        self._files = files
        self._poll_s = poll_s
        # Told where a label is, at the start and when it has moved, before it is followed.
        self.listeners: list[Callable[[str, LabelMove], None]] = []
        self._seen: dict[str, Position] = {}
        self._complaint = ""

    async def begin(self) -> dict[str, Position]:
        """Return where the labels are now; from here on, moves count."""
        self._seen = await self._files.run(
            partial(positions, self._repository, self._reloader.labels)
        )
        for label, position in self._seen.items():
            if position is not None:
                self._tell(label, position)
        return dict(self._seen)

    async def run(self) -> None:
        """Follow the labels until cancelled.

        A bundle that fails is not tried again until its label moves.
        """
        while True:
            await asyncio.sleep(self._poll_s)
            found = await self._look()
            for label in self._reloader.labels:
                position = found.get(label)
                if position is not None and position != self._seen.get(label):
                    self._seen[label] = position
                    self._tell(label, position)
                    await self._follow(label, position)

    def _tell(self, label: str, position: LabelMove) -> None:
        for listener in self.listeners:
            listener(label, position)

    async def _follow(self, label: str, position: LabelMove) -> None:
        async def still_there() -> bool:
            return (await self._look()).get(label) in (position, None)

        try:
            await self._reloader.load(label, position.bundle_id, still_there)
        except EngineError as error:
            log.debug("%s stays: %s", label, error)  # the reloader has said so already

    async def _look(self) -> dict[str, Position]:
        """Return where the labels are; nothing of those that cannot be read, told once."""
        try:
            found = await self._files.run(
                partial(positions, self._repository, self._reloader.labels)
            )
        except (MmsrError, OSError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning("the labels cannot be read, what answers stays: %s", error)
            return {}
        self._complaint = ""
        return found


def positions(repository: Repository, labels: tuple[str, ...]) -> dict[str, Position]:
    """Return where each label is now."""
    there = set(repository.label_names())
    return {label: repository.history(label)[-1] if label in there else None for label in labels}
