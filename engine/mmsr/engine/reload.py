"""Puts a newer bundle in the place of the one that answers, or says why not.

Load, carry over what lives, swap; then let the old one finish and free it. The old one answers
until the swap, and goes on if anything fails before. Knows nothing of files, threads or gRPC;
everything runs on the event loop's thread.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from mmsr.bundle.errors import MmsrError
from mmsr.engine.deployment import Carrier, Deployment, utc_now
from mmsr.engine.errors import LoadFailed, LoadUnderWay, UnknownLabel
from mmsr.engine.flights import Era, Flights
from mmsr.engine.loader import Loads
from mmsr.engine.serving import Serving

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FailedLoad:
    """A bundle that was not fit to be served."""

    model_version: str
    at: str  # ISO 8601, UTC
    reason: str


Wanted = Callable[[], Awaitable[bool]]


async def always() -> bool:
    """Want what was asked for, whatever has happened since."""
    return True


class Reloader:
    """What answers under each label, and how that changes. One load at a time."""

    def __init__(
        self,
        serving: Serving,
        loader: Loads,
        flights: Flights,
        clock: Callable[[], float],
        labels: tuple[str, ...],
    ) -> None:
        self.labels = labels  # that may be served
        self.failed: dict[str, FailedLoad] = {}  # by label, since its last success
        # Told of each load: the label, the seconds that it took, whether it answers now.
        self.listeners: list[Callable[[str, float, bool], None]] = []
        self.carrier: Carrier | None = None
        self._serving = serving
        self._loader = loader
        self._flights = flights
        self._clock = clock
        self._one = asyncio.Lock()
        self._opening: str | None = None  # the bundle that is being loaded
        self._retiring: dict[asyncio.Task[None], Deployment] = {}

    @property
    def retiring(self) -> tuple[Deployment, ...]:
        """Those that have been replaced and still answer somebody."""
        return tuple(self._retiring.values())

    async def load_now(self, label: str, bundle_id: str) -> Deployment | None:
        """Serve a bundle under a label, as `load`; `LoadUnderWay` if another load is going on."""
        if self._opening is not None:
            raise LoadUnderWay(f"{self._opening} is being loaded; ask again when it is done")
        return await self.load(label, bundle_id)

    def check_label(self, label: str) -> None:
        """Raise `UnknownLabel` unless the label may be served here."""
        if label not in self.labels:
            raise UnknownLabel(
                f"label {label!r} is not served here; served are {', '.join(self.labels)}"
            )

    async def begin(self, bundles: Mapping[str, str]) -> None:
        """Serve the first bundle of each label, at the start of the server.

        Those are opened as fast as it goes, and answer together. What is wrong with that of the
        default label is raised; the other labels begin without theirs.
        """
        opened: dict[str, Deployment] = {}
        began = self._clock()
        for label, bundle_id in bundles.items():
            try:
                if bundle_id not in opened:
                    opened[bundle_id] = await self._loader.open(bundle_id, None)
            except (MmsrError, OSError) as error:
                if label == self._serving.default_label:
                    raise
                self._note_failure(label, bundle_id, error)
        for new in opened.values():
            if self.carrier is not None:
                await self.carrier.carry(new)
        for label, bundle_id in bundles.items():
            if bundle_id in opened:
                self._swap(label, opened[bundle_id])
            self._tell(label, self._clock() - began, bundle_id in opened)

    async def load(self, label: str, bundle_id: str, wanted: Wanted = always) -> Deployment | None:
        """Serve a bundle under a label and return what answers under it then.

        `LoadFailed`: the old one goes on. `wanted` is asked before the work and before the swap:
        where it says no, the old one goes on too, without a failure.
        """
        self.check_label(label)
        async with self._one:
            if await wanted():
                await self._try(label, bundle_id, wanted)
            return self._serving.deployments.get(label)

    async def _try(self, label: str, bundle_id: str, wanted: Wanted) -> None:
        started = self._clock()
        failure = None
        self._opening = bundle_id
        try:
            await self._replace(label, bundle_id, wanted)
        except Exception as error:  # outermost: no bundle may take the server down
            failure = self._note_failure(label, bundle_id, error)
        finally:
            self._opening = None
        self._tell(label, self._clock() - started, failure is None)
        if failure is not None:
            await self._loader.free([])  # the memory of what was opened of it
            raise LoadFailed(f"bundle {bundle_id} is not served: {failure}")

    async def _replace(self, label: str, bundle_id: str, wanted: Wanted) -> None:
        """Load and swap, unless nobody wants it by then."""
        in_use = self._serving.deployments
        shared = next((d for d in in_use.values() if d.model.version == bundle_id), None)
        if shared is not None:
            self._swap(label, shared)
            return
        before = in_use.get(label) or next(iter(in_use.values()), None)
        opened = [await self._loader.open(bundle_id, before)]
        try:
            if self.carrier is not None:
                await self.carrier.carry(opened[0])
            if await wanted():
                self._swap(label, opened.pop())
            else:
                log.info("%s has moved on while %s was loaded", label, bundle_id)
        finally:
            if opened:  # it has never answered
                if self.carrier is not None:
                    self.carrier.leave(opened[0])
                await self._loader.free(opened)

    def _swap(self, label: str, new: Deployment) -> None:
        fresh = new not in self._serving.deployments.values()
        if fresh and self.carrier is not None:
            self.carrier.complete(new)
        before = self._serving.use(label, new)
        self.failed.pop(label, None)
        if before is None:
            log.info("%s is %s", label, new.model.version)
        elif before is not new:
            log.info("%s is %s now, was %s", label, new.model.version, before.model.version)
            if before not in self._serving.deployments.values():
                self._retire(before)

    def _retire(self, deployment: Deployment) -> None:
        if self.carrier is not None:
            self.carrier.leave(deployment)
        under_way = self._flights.mark()
        task = asyncio.create_task(self._see_off(deployment, under_way))
        self._retiring[task] = deployment
        task.add_done_callback(lambda ended: self._retiring.pop(ended, None))

    async def _see_off(self, deployment: Deployment, under_way: tuple[Era, ...]) -> None:
        """Let a deployment answer whoever came before the swap, then free it."""
        version = deployment.model.version
        await self._flights.landed(under_way)
        await deployment.drain()
        task = asyncio.current_task()
        assert task is not None
        self._retiring.pop(task, None)
        doomed = [deployment]
        del deployment
        await self._loader.free(doomed)
        log.info("freed %s", version)

    def _note_failure(self, label: str, bundle_id: str, error: Exception) -> str:
        known = isinstance(error, MmsrError | OSError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        self.failed[label] = FailedLoad(model_version=bundle_id, at=utc_now(), reason=reason)
        goes_on = self._serving.deployments.get(label)
        log.error(
            "%s names %s, which is not served: %s; %s",
            label,
            bundle_id,
            reason,
            f"{goes_on.model.version} goes on" if goes_on else "nothing is served under it",
            exc_info=None if known else error,
        )
        return reason

    def _tell(self, label: str, seconds: float, answers: bool) -> None:
        for listener in self.listeners:
            listener(label, seconds, answers)
