"""The live catalogue of a server: from a checked change to its acknowledgement.

A change goes encode -> keep -> apply -> show; the last three are the pump's. Knows nothing of gRPC;
the thread that computes and the clocks are handed in.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeVar

from mmsr.bundle.preprocess import ImageError
from mmsr.engine.catalogue.changes import Deletion, Done, Switching, Upsert
from mmsr.engine.catalogue.config import CatalogueLimits
from mmsr.engine.catalogue.drafts import Draft
from mmsr.engine.catalogue.encoders import Encoders
from mmsr.engine.catalogue.features import (
    Features,
    Reader,
    can_be_made,
    make_features,
    wanted_features,
)
from mmsr.engine.catalogue.live_rows import LiveRows
from mmsr.engine.catalogue.pump import Attach, InThread, Pump
from mmsr.engine.catalogue.records import Record
from mmsr.engine.catalogue.store import CatalogueStore
from mmsr.engine.errors import InvalidRequest, Overloaded, Unavailable
from mmsr.engine.model import SequenceModel

Result = TypeVar("Result")
log = logging.getLogger(__name__)
RETRY_MS = 200


class Clocks(NamedTuple):
    """Both in seconds."""

    monotonic: Callable[[], float]
    utc: Callable[[], float]  # since 1970


class LiveCatalogue:
    """One for a server. Made and used on one event loop; what blocks runs in its own threads.

    `compute` runs calls between two batches of every model.
    """

    def __init__(
        self,
        open_store: Callable[[], CatalogueStore],
        encoders: Encoders,
        compute: InThread,
        clocks: Clocks,
        limits: CatalogueLimits,
    ) -> None:
        self.limits = limits
        self._open_store = open_store
        self._encoders = encoders
        self._compute = compute
        self._clocks = clocks
        self._waiting = self._waiting_bytes = 0
        self._store: CatalogueStore | None = None
        self._shown: dict[SequenceModel, LiveRows] = {}
        self._pump: Pump | None = None
        self._working: asyncio.Task[None] | None = None
        self._threads = {
            name: ThreadPoolExecutor(1, f"catalogue-{name}")
            for name in ("write", "encode", "carry", "read")
        }

    @property
    def version(self) -> int:
        """Of the last change that is shown."""
        return self._running().version

    async def open(self) -> None:
        """Open the store, once; `StoreDamaged` says what is wrong with it."""
        self._store = await self._in("write", self._open_store)
        group = self.limits.group
        self._pump = Pump(self._store, self._encoders, self._compute, self._clocks.utc, group)
        self._working = asyncio.create_task(self._pump.work(partial(self._in, "write")))

    async def attach(self, model: SequenceModel) -> LiveRows:
        """Show a model every change that its bundle does not contain, and all later ones.

        Before it serves. `CatalogueFull`: its spare rows are too few for them.
        """
        began, pump = self._clocks.monotonic(), self._running()
        live = self._shown[model] = LiveRows(model)
        attached = False
        try:
            await self._in("carry", live.reader.projector.open)
            reached = pump.version
            carried = await pump.carry_over(live, 0, partial(self._in, "carry"))
            await pump.submit(Attach(live, reached))
            attached = True
        finally:
            if not attached:
                self.detach(model)
        log.info(
            "catalogue at version %d: %d of its items are known to bundle %s, %d rows are "
            "spare (%.1f s)",
            pump.version,
            carried,
            model.version,
            live.spare_rows,
            self._clocks.monotonic() - began,
        )
        return live

    def detach(self, model: SequenceModel) -> None:
        """Show a model nothing more; then it may be closed."""
        live = self._shown.pop(model, None)
        if live is None:  # it could not be attached
            return
        live.left = True
        attached = self._running().attached
        if live in attached:
            attached.remove(live)
        self._threads["write"].submit(live.reader.projector.close)

    def shown(self, model: SequenceModel) -> LiveRows:
        """Return the changing part of a model that was attached."""
        return self._shown[model]

    async def upsert(self, drafts: Sequence[Draft]) -> Done:
        """Encode, keep and show items. `InvalidRequest`: an image cannot be used."""
        pump = self._running()
        readers = [live.reader for live in pump.attached]
        features: list[Features] = [dict(draft.given) for draft in drafts]
        encode_us = 0
        # Whoever brings features does not wait for those who bring images.
        if await self._in("read", lambda: _lacking(drafts, readers)):
            encode = partial(self._encoded, drafts, readers)
            features, encode_us = await self._in("encode", encode)
        done = await pump.submit(Upsert(drafts, features))
        return done._replace(encode_us=encode_us)

    async def delete(self, item_ids: Sequence[str]) -> Done:
        """Remove items for good."""
        return await self._running().submit(Deletion(item_ids))

    async def set_available(self, item_ids: Sequence[str], available: bool) -> Done:
        """Say of items whether they can be bought now."""
        return await self._running().submit(Switching(item_ids, available))

    async def records(self, item_ids: Sequence[str]) -> dict[str, Record]:
        """Return what is kept of some items."""
        assert self._store is not None
        return await self._in("read", partial(self._store.records, item_ids))

    async def read(self, call: Callable[[], Result]) -> Result:
        """Run what only reads, and may take a while, beside the event loop."""
        return await self._in("read", call)

    @contextmanager
    def admitted(self, size: int) -> Iterator[None]:
        """Hold a place among the messages that wait, `size` bytes long; `Overloaded`: none is."""
        limits = self.limits
        if self._waiting >= limits.waiting or self._waiting_bytes + size > limits.waiting_bytes:
            raise Overloaded(
                f"{self._waiting} changes of {self._waiting_bytes} bytes wait, at most "
                f"{limits.waiting} of {limits.waiting_bytes} bytes may; retry in {RETRY_MS} ms",
                RETRY_MS,
            )
        self._waiting += 1
        self._waiting_bytes += size
        try:
            yield
        finally:
            self._waiting -= 1
            self._waiting_bytes -= size

    async def close(self) -> None:
        """Refuse new changes, end what encodes, finish what waits to be kept, let the store go."""
        self._encoders.close()
        if self._pump is not None and self._working is not None:
            self._pump.close()
            await self._working
        for thread in self._threads.values():
            thread.shutdown(wait=False, cancel_futures=True)
        if self._store is not None:
            self._store.close()

    def _running(self) -> Pump:
        if self._pump is None:
            raise Unavailable("the server is starting; try again in a moment")
        return self._pump

    async def _in(self, thread: str, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads[thread], call)

    def _encoded(
        self, drafts: Sequence[Draft], readers: Sequence[Reader]
    ) -> tuple[list[Features], int]:
        """Return each draft's features for every bundle in use, and the microseconds it took."""
        began = self._clocks.monotonic()
        found = []
        for place, draft in enumerate(drafts):
            features: Features = dict(draft.given)
            for reader in readers:
                try:
                    features |= make_features(
                        draft.content, draft.file, reader, self._encoders, features
                    )
                except ImageError as error:
                    raise InvalidRequest(f"items[{place}].image: {error}") from None
            found.append(features)
        return found, round(1e6 * (self._clocks.monotonic() - began))


def _lacking(drafts: Sequence[Draft], readers: Sequence[Reader]) -> bool:
    """Tell whether an encoder must be asked."""
    return any(
        want.key not in draft.given and can_be_made(want, draft.file)
        for draft in drafts
        for reader in readers
        for want in wanted_features(draft.content, reader)
    )
