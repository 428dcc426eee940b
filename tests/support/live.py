"""A live catalogue in this process: real store, real threads, real encoder processes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mmsr.engine.catalogue.config import CatalogueLimits
from mmsr.engine.catalogue.drafts import drafts_of
from mmsr.engine.catalogue.encoders import EncodeLimits, Encoders
from mmsr.engine.catalogue.live import Clocks, LiveCatalogue
from mmsr.engine.catalogue.live_rows import LiveRows
from mmsr.engine.catalogue.store import CatalogueStore, open_sqlite
from mmsr.engine.compute import ComputeThread
from mmsr.engine.model import RowRequest, open_model
from mmsr.v1 import catalogue_pb2 as pb

PATIENCE_S = 120.0
LARGE = 1 << 30


class Shown:
    """A catalogue and the models that it is shown with."""

    def __init__(self, catalogue: LiveCatalogue, compute: ComputeThread) -> None:
        self.catalogue = catalogue
        self.compute = compute

    async def attach(self, folder: Path) -> LiveRows:
        """Open a bundle and show it the catalogue."""
        model = await self.compute.run(lambda: open_model(folder, threads=1))
        return await self.catalogue.attach(model)

    async def upsert(self, live: LiveRows, *items: pb.Item) -> Any:
        """Write items as the service does."""
        drafts = drafts_of(items, live.reader.encoders, self.catalogue.limits)
        return await self.catalogue.upsert(drafts)

    async def detach(self, live: LiveRows) -> None:
        """Close a model as a reload does."""
        self.catalogue.detach(live.model)
        await self.compute.run(live.model.close)

    async def best(self, live: LiveRows, history: list[str], k: int = 1000) -> list[str]:
        """Return the ids of the best items."""
        request = RowRequest(live.index.rows_of(history), [], min(k, len(live.index)))
        [answer] = await self.compute.run(lambda: live.model.recommend([request]))
        return live.index.ids_of(answer.rows)


@asynccontextmanager
async def shown(
    path: Path,
    utc: Callable[[], float] = time.time,
    open_store: Callable[[Path, int], CatalogueStore] = open_sqlite,
) -> AsyncIterator[Shown]:
    """Open the catalogue at `path` and close it again."""
    compute = ComputeThread(asyncio.get_running_loop())
    compute.start()
    catalogue = LiveCatalogue(
        lambda: open_store(path, LARGE),
        Encoders(EncodeLimits()),
        compute.run,
        Clocks(time.monotonic, utc),
        CatalogueLimits(),
    )
    await catalogue.open()
    try:
        yield Shown(catalogue, compute)
    finally:
        await catalogue.close()
        compute.close()


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end, but no longer than `PATIENCE_S`."""

    async def bounded() -> None:
        await asyncio.wait_for(main, PATIENCE_S)

    asyncio.run(bounded())


def row_of(live: LiveRows, item_id: str) -> Any:
    """Return an item's row of `item_outputs`."""
    number = live.index.number_of(item_id)
    assert number is not None, f"{item_id} is not there"
    return live.model.bundle.item_outputs_CD[live.model.placement.row(number)].copy()
