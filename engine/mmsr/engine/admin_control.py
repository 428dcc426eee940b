"""What an operator may ask of a running server. Knows nothing of gRPC.

Repositories are read and written in a thread: a shared folder may take its time.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol, TypeVar, get_args

from mmsr.bundle.errors import BundleError
from mmsr.bundle.repository import Repository
from mmsr.engine.compute import ComputeThread
from mmsr.engine.config import LogLevel
from mmsr.engine.deployment import Deployment
from mmsr.engine.errors import InvalidRequest, LoadFailed, Unavailable, UnknownBundle
from mmsr.engine.memory import resident_bytes
from mmsr.engine.reload import FailedLoad, Reloader
from mmsr.engine.serving import Serving
from mmsr.engine.trial import Trial

log = logging.getLogger(__name__)
Result = TypeVar("Result")

LEVELS: tuple[str, ...] = get_args(LogLevel)
STARTING, SERVING, DRAINING = "starting", "serving", "draining"


@dataclass(frozen=True, kw_only=True)
class ItemCounts:
    """How many items a deployment knows, how many of them live, and how many rows are left."""

    items: int
    live_items: int
    spare_rows: int


class Live(Protocol):
    """A catalogue that changes while the server runs."""

    @property
    def version(self) -> int:
        """How many changes there were."""

    def counts(self, deployment: Deployment) -> ItemCounts:
        """Count a deployment's items."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """What answers under one label."""

    label: str
    deployment: Deployment | None  # None: its bundle could not be served at the start
    counts: ItemCounts
    failed: FailedLoad | None


@dataclass(frozen=True, kw_only=True)
class Status:
    """How a server stands."""

    state: str
    version: str
    uptime_s: float
    models: tuple[Served, ...]
    default_label: str
    catalogue_version: int
    memory_bytes: int
    trial: Trial | None  # of a canary, where one is wanted


class Control:
    """The operator's hand on one server."""

    def __init__(
        self,
        serving: Serving,
        reloader: Reloader,
        repository: Repository,
        files: ComputeThread,
        clock: Callable[[], float],
    ) -> None:
        self.state = STARTING
        self.live: Live | None = None
        self.trial: Trial | None = None
        self.stop: Callable[[], None] | None = None  # begins what SIGTERM begins
        self._serving = serving
        self._reloader = reloader
        self._repository = repository
        self._files = files
        self._clock = clock
        self._began = clock()

    def status(self) -> Status:
        """Say what is served and how it goes."""
        return Status(
            state=self.state,
            version=release(),
            uptime_s=self._clock() - self._began,
            models=tuple(
                self.served(label)
                for label in self._reloader.labels
                if label in self._serving.deployments or label in self._reloader.failed
            ),
            default_label=self._serving.default_label,
            catalogue_version=self.live.version if self.live is not None else 0,
            memory_bytes=resident_bytes(),
            trial=self.trial,
        )

    def served(self, label: str) -> Served:
        """Say what answers under a label; "" is the default one."""
        name = label or self._serving.default_label
        deployment = self._serving.deployments.get(name)
        return Served(
            label=name,
            deployment=deployment,
            counts=self._counts(deployment),
            failed=self._reloader.failed.get(name),
        )

    async def load(self, label: str, bundle_id: str) -> float:
        """Serve a bundle under a label; return the seconds that it took."""
        began = self._clock()
        await self._known(bundle_id)
        await self._load(label or self._serving.default_label, bundle_id)
        return self._clock() - began

    async def promote(self, label: str, bundle_id: str) -> None:
        """Serve a bundle under a label, then move the repository's label to it."""
        name = label or self._serving.default_label
        await self._known(bundle_id)
        await self._load(name, bundle_id)
        await self._moved(name, lambda: self._repository.promote(bundle_id, name))

    async def roll_back(self, label: str) -> None:
        """Serve the bundle that the label named before, then move the repository's label back."""
        name = label or self._serving.default_label
        self._reloader.check_label(name)
        moves = await self._found(lambda: self._repository.history(name))
        if len(moves) < 2:
            raise LoadFailed(
                f"label {name!r} has had no bundle but {moves[-1].bundle_id}: nothing to go back to"
            )
        before = moves[-2].bundle_id
        await self._known(before)
        await self._load(name, before)
        now = await self._moved(name, lambda: self._repository.rollback(name))
        if now != before:  # somebody else has moved it meanwhile: theirs holds
            await self._load(name, now)

    def set_log_level(self, level: str) -> str:
        """Change how much is logged; return the level before."""
        if level not in LEVELS:
            raise InvalidRequest(f"level is {level!r}; expected one of: {', '.join(LEVELS)}")
        root = logging.getLogger()
        before = logging.getLevelName(root.level)
        root.setLevel(level)
        log.info("log level %s, was %s", level, before)
        return str(before)

    def drain(self) -> None:
        """Begin to stop, as SIGTERM does."""
        if self.stop is None:
            raise Unavailable("the server is starting or stopping already")
        log.info("told to drain")
        self.stop()

    async def _load(self, label: str, bundle_id: str) -> None:
        if self.state != SERVING:
            raise Unavailable(f"the server is {self.state}; nothing is loaded now")
        self._serving.allow(label, bundle_id)
        await self._reloader.load_now(label, bundle_id)

    async def _known(self, bundle_id: str) -> None:
        await self._found(lambda: self._repository.path(bundle_id))

    async def _found(self, read: Callable[[], Result]) -> Result:
        try:
            return await self._files.run(read)
        except BundleError as error:
            raise UnknownBundle(str(error)) from None

    async def _moved(self, label: str, move: Callable[[], Result]) -> Result:
        try:
            return await self._files.run(move)
        except (BundleError, OSError) as error:
            served = self._serving.deployment(label).model.version
            raise LoadFailed(
                f"{served} is served here now, but label {label!r} could not be moved: {error}"
            ) from None

    def _counts(self, deployment: Deployment | None) -> ItemCounts:
        if deployment is None:
            return ItemCounts(items=0, live_items=0, spare_rows=0)
        if self.live is not None:
            return self.live.counts(deployment)
        items = len(deployment.service.items)
        spare = deployment.model.bundle.manifest.tables.capacity - 1 - items
        return ItemCounts(items=items, live_items=0, spare_rows=spare)


def release() -> str:
    """Return the version of this package; "" where it runs without being installed."""
    try:
        return version("mmsr")
    except PackageNotFoundError:
        return ""
