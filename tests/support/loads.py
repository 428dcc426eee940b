"""A loader without bundles: what it gives has a version, and answers nothing."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from support.virtual_time import Clock

from mmsr.bundle.errors import BundleError
from mmsr.engine.deployment import Deployment
from mmsr.engine.flights import Flights
from mmsr.engine.reload import Reloader
from mmsr.engine.serving import Serving

LOAD_S = 10.0


@dataclass
class Model:
    version: str


class Idle:
    """A batcher that nobody has asked."""

    def __init__(self) -> None:
        self.drained = False

    async def drain(self) -> None:
        self.drained = True


def deployment(version: str) -> Deployment:
    model: Any = Model(version)
    idle: Any = Idle()
    none: Any = None
    return Deployment(
        model=model, batcher=idle, service=none, asides=idle, similar=none, explaining=none
    )


@dataclass
class FakeLoader:
    """Takes `LOAD_S` for each bundle; `bad` ones fail at the end of it."""

    bad: set[str] = field(default_factory=set)
    opened: list[str] = field(default_factory=list)
    freed: list[str] = field(default_factory=list)

    async def open(self, bundle_id: str, before: Deployment | None) -> Deployment:
        await asyncio.sleep(LOAD_S if before is not None else 0)
        if bundle_id in self.bad:
            raise BundleError(f"{bundle_id} is damaged")
        self.opened.append(bundle_id)
        return deployment(bundle_id)

    async def free(self, deployments: list[Deployment]) -> None:
        self.freed += [found.model.version for found in deployments]
        deployments.clear()


@dataclass
class House:
    """A reloader with all that it needs, and a clock."""

    clock: Clock
    labels: tuple[str, ...] = ("stable",)
    loader: FakeLoader = field(default_factory=FakeLoader)
    flights: Flights = field(default_factory=Flights)

    def __post_init__(self) -> None:
        self.serving = Serving(self.labels[0])
        loops: Callable[[], float] = self.clock
        self.reloader = Reloader(self.serving, self.loader, self.flights, loops, self.labels)

    def answers(self) -> dict[str, str]:
        """Return which bundle answers under each label."""
        return {label: d.model.version for label, d in self.serving.deployments.items()}
