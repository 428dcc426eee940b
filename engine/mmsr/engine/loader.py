"""Opens bundles beside the ones that answer, and frees those that are no longer used.

Everything that takes time runs in a thread that is not the one that computes answers, or in a
process of its own. Decides nothing: `reload` says what is loaded and when.
"""

import asyncio
import gc
import logging
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import MANIFEST, load_manifest
from mmsr.bundle.repository import Repository
from mmsr.engine.batch_times import BatchTimes
from mmsr.engine.compute import ComputeThread
from mmsr.engine.config import ServeConfig
from mmsr.engine.deployment import Deployment, Opened, assembled, open_beside, open_whole
from mmsr.engine.errors import ProbeFailed, Unavailable
from mmsr.engine.memory import give_back
from mmsr.engine.pace import Pace
from mmsr.engine.proof import Proof

log = logging.getLogger(__name__)

# How long a thread that computes in Python keeps the interpreter from one that waits for it, while
# a bundle is opened. At Python's own 5 ms every answer would take some 10 ms longer meanwhile.
SWITCH_INTERVAL_S = 0.0005


class Loads(Protocol):
    """What `reload` needs of a loader."""

    async def open(self, bundle_id: str, before: Deployment | None) -> Deployment:
        """Return a deployment that is proven and ready; `before` is the one that answers now."""

    async def free(self, deployments: list[Deployment]) -> None:
        """Close what the list holds, which nothing else refers to, and empty it."""


class Loader:
    """Loads bundles of one repository for one server."""

    def __init__(
        self,
        config: ServeConfig,
        compute: ComputeThread,
        loading: ComputeThread,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._compute = compute
        self._loading = loading
        self._clock = clock
        self.repository = Repository(config.server.repository)
        self._proof: Proof | None = None
        self._stopped = False

    def stop(self) -> None:
        """End the trial of a bundle, if one goes on, and begin no other: its load fails."""
        self._stopped = True
        if self._proof is not None:
            self._proof.stop()

    async def open(self, bundle_id: str, before: Deployment | None) -> Deployment:
        """Return a deployment that is proven and ready.

        Without one `before`, at the start of the server, as fast as it goes; otherwise beside it.
        `BundleError`, `ProbeFailed`: it is not to be served.
        """
        with ExitStack() as lease:
            folder = await self._loading.run(partial(self._lease, lease, bundle_id))
            if before is None:
                whole = partial(open_whole, folder, self._config, self._clock)
                opened = await self._compute.run(whole)
            else:
                opened = await self._open_beside(folder, before)
            kept = lease.pop_all()
        return assembled(opened, self._config, self._compute, self._clock, kept)

    def _lease(self, lease: ExitStack, bundle_id: str) -> Path:
        folder = lease.enter_context(self.repository.hold(bundle_id))
        found = load_manifest(folder).bundle_id
        if found != bundle_id:
            raise BundleError(
                f"{folder / MANIFEST} is that of bundle {found}; somebody has moved folders or "
                "copied files in the repository; export the model again"
            )
        return folder

    async def _open_beside(self, folder: Path, before: Deployment) -> Opened:
        started = self._clock()
        reload = self._config.reload
        self._proof = proof = Proof(folder, nice=reload.nice, limit_s=reload.limit_s)
        if self._stopped:
            proof.stop()
        try:
            found = await self._loading.run(proof.run)
        except asyncio.CancelledError:
            proof.stop()
            raise
        except ProbeFailed:
            if self._stopped:
                raise Unavailable("the server is stopping; nothing is loaded any more") from None
            raise
        finally:
            self._proof = None
        log.info("proved bundle %s in %.1f s: %s", folder.name, self._clock() - started, found)
        times = before.times
        return await self._loading.run(lambda: self._open_proven(folder, times))

    def _open_proven(self, folder: Path, times: BatchTimes) -> Opened:
        pace = Pace(self._config.reload.share)
        with switching(SWITCH_INTERVAL_S):
            return open_beside(folder, self._config, self._clock, times, pace.rest)

    async def free(self, deployments: list[Deployment]) -> None:
        """Close what the list holds, which nothing else refers to, and empty it."""
        await self._compute.run(_nothing)  # whatever a stream has asked of them is computed by then
        await self._loading.run(partial(_free, deployments))


@contextmanager
def switching(interval_s: float) -> Iterator[None]:
    """Let threads take turns in the interpreter this often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval_s)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _nothing() -> None:
    """Be done when everything before is."""


def _free(deployments: list[Deployment]) -> None:
    """Close deployments and give their memory back."""
    models = [weakref.ref(deployment.model) for deployment in deployments]
    while deployments:
        deployments.pop().close()
    if any(model() is not None for model in models):
        # Something refers to it in a circle, or holds it still. What was frozen is never looked
        # at, so it is thawed, which costs the requests of the moment a tenth of a second.
        log.warning("a bundle that is no longer used is still referred to; collecting everything")
        gc.unfreeze()
        gc.collect()
    # Nothing is frozen anew: what is in flight now, and dies in circles later, would stay for ever.
    give_back()
