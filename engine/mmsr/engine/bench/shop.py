"""A running server's catalogue and recommendations, as the scenario `catalogue` asks for them.

Knows mmsr.v1; nothing of times.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np

from mmsr.bundle.catalogue import load_catalogue
from mmsr.bundle.manifest import load_manifest
from mmsr.engine.bench.encode_bench import made_up_pictures
from mmsr.engine.bench.plan import BenchError
from mmsr.engine.bench.samples import OK
from mmsr.engine.bench.writer import Receipt
from mmsr.engine.bench.writes import DELETED, NEW, ON
from mmsr.engine.catalogue.projector import modality_widths
from mmsr.v1 import catalogue_pb2 as pb
from mmsr.v1 import recommender_pb2 as rpb
from mmsr.v1.catalogue_pb2_grpc import CatalogueStub
from mmsr.v1.recommender_pb2_grpc import RecommenderStub

FEATURES, TEXT, IMAGE = "features", "text", "image"
CONTENTS = (FEATURES, TEXT, IMAGE)  # what a new item comes with
DIFFERENT = 32  # contents, taken in turn
TITLE_WORDS = 8
PAGE = 1000  # items that are read at once
AT_ONCE = 10_000  # ids of one deletion
QUIET_S = 60.0  # for a call beside the measuring: the server may be busy with others

MakeItem = Callable[[str], pb.Item]


class Listing(NamedTuple):
    """All items of a catalogue, as ListItems tells of them."""

    items: int
    sha256: str


def item_maker(folder: Path, content: str, seed: int) -> MakeItem:
    """Return what makes a new item of an id, as this bundle can take one.

    `BenchError` says what the bundle lacks for it.
    """
    manifest = load_manifest(folder)
    if "item" not in manifest.graphs:
        raise BenchError(
            f"bundle {folder.name} has no item.onnx: its catalogue cannot change; export the model "
            "again"
        )
    widths = modality_widths(manifest)
    there = [m for m in (IMAGE, TEXT) if m in widths and f"{m}_encoder" in manifest.graphs]
    if not there:
        raise BenchError(
            f"bundle {folder.name} has no image and no text encoder: a new item would have no "
            "content; measure a bundle whose model reads pictures or texts"
        )
    if content == FEATURES:
        return _featured({modality: widths[modality] for modality in there}, seed)
    if content not in there:
        raise BenchError(
            f"content is {content!r}, and bundle {folder.name} has no {content} encoder; expected "
            f"{' or '.join((FEATURES, *there))}"
        )
    if content == IMAGE:
        pictures = made_up_pictures()
        return lambda item_id: pb.Item(item_id=item_id, image=_in_turn(pictures, item_id))
    titles = _titles(folder, seed)
    return lambda item_id: pb.Item(item_id=item_id, title=_in_turn(titles, item_id))


def _featured(widths: dict[str, int], seed: int) -> MakeItem:
    random = np.random.default_rng(seed)
    drawn = [
        {f"{m}_features": random.standard_normal(width).tolist() for m, width in widths.items()}
        for _ in range(DIFFERENT)
    ]

    def make(item_id: str) -> pb.Item:
        values: dict[str, Any] = _in_turn(drawn, item_id)
        return pb.Item(item_id=item_id, **values)

    return make


def _titles(folder: Path, seed: int) -> list[str]:
    """Return titles of words that the shop's own titles have; ids where it has no titles."""
    catalogue = load_catalogue(folder)
    said = [title for title in catalogue.titles if title] or catalogue.item_ids
    words = sorted({word for title in said for word in title.split()})
    chosen = np.random.default_rng(seed).choice(words, (DIFFERENT, TITLE_WORDS))
    return [" ".join(line) for line in chosen.tolist()]


def _in_turn(values: Sequence[Any], item_id: str) -> Any:
    return values[int(item_id.rpartition("-")[2]) % len(values)]


@dataclass
class GrpcShop:
    """One channel to a server; a `writer.Shop`.

    Asks for the made-up items alone and for one of the bundle's that is always recommended: an
    answer without that one says nothing of the others, and is counted as `misled`.
    """

    channel: grpc.aio.Channel
    make_item: MakeItem
    history: Sequence[str]
    deadline_s: float
    anchor: str = ""
    unanswered: int = 0  # questions
    misled: int = 0
    first_details: dict[int, str] = field(default_factory=dict)  # by status code, of writes

    def __post_init__(self) -> None:
        self._catalogue = CatalogueStub(self.channel)
        self._recommender = RecommenderStub(self.channel)

    async def find_anchor(self) -> None:
        """Take the best item after the history; `BenchError` if the server recommends none."""
        request = rpb.RecommendRequest(history=self.history, k=1, exclude_seen=False)
        answer = await quietly(self._recommender.Recommend(request, timeout=QUIET_S), "Recommend")
        if not answer.item_ids or answer.fallback:
            raise BenchError(
                "the server does not know the histories of the bundle; are repository and label "
                "the server's?"
            )
        self.anchor = answer.item_ids[0]

    async def write(self, kind: str, item_id: str) -> Receipt:
        """Make one change; a failed call is a status, not an exception."""
        try:
            return await self._write(kind, item_id)
        except grpc.aio.AioRpcError as error:
            status: int = error.code().value[0]
            self.first_details.setdefault(status, error.details() or "")
            return Receipt(status)

    async def _write(self, kind: str, item_id: str) -> Receipt:
        if kind == NEW:
            upsert = pb.UpsertItemsRequest(items=[self.make_item(item_id)])
            done = await self._catalogue.UpsertItems(upsert, timeout=self.deadline_s)
            return Receipt(OK, done.encode_us)
        if kind == DELETED:
            gone = pb.DeleteItemsRequest(item_ids=[item_id])
            await self._catalogue.DeleteItems(gone, timeout=self.deadline_s)
            return Receipt(OK)
        switch = pb.SetAvailabilityRequest(item_ids=[item_id], available=kind == ON)
        await self._catalogue.SetAvailability(switch, timeout=self.deadline_s)
        return Receipt(OK)

    async def there(self, item_ids: Sequence[str]) -> frozenset[str] | None:
        """Return which of the items are recommended; None if there was no answer."""
        request = rpb.RecommendRequest(
            history=self.history,
            k=len(item_ids) + 1,
            exclude_seen=False,
            allowed=rpb.ItemIds(item_ids=[self.anchor, *item_ids]),
        )
        try:
            answer = await self._recommender.Recommend(request, timeout=self.deadline_s)
        except grpc.aio.AioRpcError:
            self.unanswered += 1
            return None
        found = frozenset(answer.item_ids)
        if self.anchor not in found:
            self.misled += 1
            return None
        return found

    async def try_out(self, item_id: str) -> None:
        """Write one item and delete it again; `BenchError` with the server's own words."""
        upsert = pb.UpsertItemsRequest(items=[self.make_item(item_id)])
        await quietly(self._catalogue.UpsertItems(upsert, timeout=QUIET_S), "UpsertItems")
        await self.delete([item_id])

    async def delete(self, item_ids: Sequence[str]) -> None:
        """Remove items, as far as they are there."""
        for begin in range(0, len(item_ids), AT_ONCE):
            gone = pb.DeleteItemsRequest(item_ids=item_ids[begin : begin + AT_ONCE])
            await quietly(self._catalogue.DeleteItems(gone, timeout=QUIET_S), "DeleteItems")

    async def left(self, item_ids: Sequence[str]) -> int:
        """Return how many of some items are there."""
        found = 0
        for begin in range(0, len(item_ids), PAGE):
            request = pb.GetItemsRequest(item_ids=item_ids[begin : begin + PAGE])
            answer = await quietly(self._catalogue.GetItems(request, timeout=QUIET_S), "GetItems")
            found += len(answer.items)
        return found

    async def listing(self) -> Listing:
        """Return how many items there are, and a hash of all that is known of them."""
        items, digest, token = 0, hashlib.sha256(), ""
        while True:
            request = pb.ListItemsRequest(page_size=PAGE, page_token=token)
            page = await quietly(self._catalogue.ListItems(request, timeout=QUIET_S), "ListItems")
            items += len(page.items)
            for item in page.items:
                digest.update(item.SerializeToString(deterministic=True))
            token = page.next_page_token
            if not token:
                return Listing(items, digest.hexdigest())


async def quietly(call: Awaitable[Any], method: str) -> Any:
    """Wait for a call beside the measuring; `BenchError` with what the server said."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise BenchError(
            f"the server refused {method}: {error.code().name}, {error.details()}"
        ) from None
