"""Points a canary's label back in the repository, so that every server that follows it stops too.

The trial has ended here already; a repository that cannot be written changes nothing about that.
"""

import asyncio
import logging
from functools import partial

from mmsr.bundle.errors import BundleError
from mmsr.bundle.repository import LabelMovedError, Move, Repository
from mmsr.engine.compute import ComputeThread
from mmsr.engine.errors import EngineError
from mmsr.engine.reload import Reloader
from mmsr.engine.trial import Trial

log = logging.getLogger(__name__)


class Withdrawal:
    """What follows a breach of `trial`'s limits."""

    def __init__(
        self, trial: Trial, repository: Repository, reloader: Reloader, files: ComputeThread
    ) -> None:
        self._trial = trial
        self._repository = repository
        self._reloader = reloader
        self._files = files
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself would let them go
        trial.on_breach = self.begin

    def begin(self, version: str, reason: str) -> None:
        """Move the label away from a bundle, in the background."""
        task = asyncio.create_task(self._run(version, reason))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, version: str, reason: str) -> None:
        trial = self._trial
        label, default = trial.label, trial.serving.default_label
        move = partial(point_back, self._repository, default, Move(label=label, named=version))
        try:
            target = await self._files.run(partial(move, reason))
        except LabelMovedError:
            log.info("label %r has been moved away from %s already; it stays", label, version)
        except (BundleError, OSError) as error:
            log.warning(
                "label %r could not be moved away from %s (%s): only this server has stopped to "
                "try it; move the label by mmsr-repo promote where the repository can be written",
                label,
                version,
                error,
            )
        else:
            log.info("label %r names %s, as %r does", label, target, default)
            await self._follow(label, target)

    async def _follow(self, label: str, target: str) -> None:
        """Answer under the label as every server will, with or without a watch."""
        self._trial.serving.withdraw(target)
        try:
            await self._reloader.load(label, target)
        except EngineError as error:
            log.debug("%s stays: %s", label, error)  # the reloader has said so already


def point_back(repository: Repository, default: str, move: Move, reason: str) -> str:
    """Move a label to what the default one names; return that.

    `LabelMovedError`: it names another bundle by now. `BundleError`, `OSError`: it cannot be moved.
    """
    target = repository.history(default)[-1].bundle_id
    if target == move.named:
        raise BundleError(f"label {default!r} names it too, so there is nothing to go back to")
    repository.promote(target, move, reason)
    return target
