"""Items as a client writes and reads them, and their messages of `mmsr.v1.Catalogue`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mmsr.engine.client_messages import encoding, ids
from mmsr.v1 import catalogue_pb2 as pb

MESSAGE_ITEMS = 1000
MESSAGE_BYTES = 1 << 20  # more only where one item is larger: an acknowledgement comes for each


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """What a shop says of an item; any modality may be absent."""

    item_id: str
    title: str = ""
    description: str = ""
    brand: str = ""
    categories: Sequence[str] = ()
    image: bytes = b""  # JPEG, PNG, WebP or GIF
    image_features: Sequence[float] = ()  # instead of it: the image encoder's output
    text_features: Sequence[float] = ()  # instead of the texts: the text encoder's output
    available: bool | None = None  # None: yes
    popularity: int | None = None  # how often it was bought; None: 0, or as before


@dataclass(frozen=True, kw_only=True, slots=True)
class Upserted:
    """An acknowledged write: durable, and seen by every request that begins now."""

    catalogue_version: int
    added_ids: tuple[str, ...]
    replaced_ids: tuple[str, ...]
    encode_us: int  # of images and texts


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a stream of items has come."""

    catalogue_version: int
    items: int  # of the stream that are durable and seen


@dataclass(frozen=True, kw_only=True, slots=True)
class Changed:
    """An acknowledged change of items that were there."""

    catalogue_version: int
    unknown_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemState:
    """What the server knows of an item."""

    item_id: str
    title: str
    categories: tuple[str, ...]
    available: bool
    popularity: int
    trained: bool  # in the bundle, with an id of its own
    live: bool  # written since the bundle was made
    modalities: tuple[str, ...]  # of a live item


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """Those of some items that are there."""

    items: tuple[ItemState, ...]
    unknown_ids: tuple[str, ...]
    catalogue_version: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemPage:
    """Some of all items, in the order of their ids."""

    items: tuple[ItemState, ...]
    next_page_token: str  # "": this is the last page
    catalogue_version: int


def item_message(item: Item) -> pb.Item:
    """Translate an item; `InvalidRequest` if it cannot be encoded."""
    with encoding("texts in UTF-8 and a popularity of at least 0"):
        return pb.Item(
            item_id=item.item_id,
            title=item.title,
            description=item.description,
            brand=item.brand,
            categories=ids("categories", item.categories),
            image=item.image,
            image_features=item.image_features,
            text_features=item.text_features,
            available=item.available,
            popularity=item.popularity,
        )


def upsert_messages(items: Iterable[Item]) -> Iterator[pb.UpsertItemsStreamRequest]:
    """Pack items into messages of a stream, each well below what a server reads at once."""
    packed: list[pb.Item] = []
    size_bytes = 0
    for item in items:
        message = item_message(item)
        if packed and not _fits(message, len(packed), size_bytes):
            yield pb.UpsertItemsStreamRequest(items=packed)
            packed, size_bytes = [], 0
        packed.append(message)
        size_bytes += message.ByteSize()
    if packed:
        yield pb.UpsertItemsStreamRequest(items=packed)


def _fits(message: pb.Item, count: int, size_bytes: int) -> bool:
    return count < MESSAGE_ITEMS and size_bytes + message.ByteSize() <= MESSAGE_BYTES


def upserted(response: pb.UpsertItemsResponse) -> Upserted:
    """Translate an answer."""
    return Upserted(
        catalogue_version=response.catalogue_version,
        added_ids=tuple(response.added_ids),
        replaced_ids=tuple(response.replaced_ids),
        encode_us=response.encode_us,
    )


def progress(response: pb.UpsertItemsStreamResponse) -> Progress:
    """Translate an acknowledgement."""
    return Progress(catalogue_version=response.catalogue_version, items=response.items)


def changed(response: pb.DeleteItemsResponse | pb.SetAvailabilityResponse) -> Changed:
    """Translate an answer."""
    return Changed(
        catalogue_version=response.catalogue_version, unknown_ids=tuple(response.unknown_ids)
    )


def found_items(response: pb.GetItemsResponse) -> Items:
    """Translate an answer."""
    return Items(
        items=tuple(map(_state, response.items)),
        unknown_ids=tuple(response.unknown_ids),
        catalogue_version=response.catalogue_version,
    )


def item_page(response: pb.ListItemsResponse) -> ItemPage:
    """Translate an answer."""
    return ItemPage(
        items=tuple(map(_state, response.items)),
        next_page_token=response.next_page_token,
        catalogue_version=response.catalogue_version,
    )


def _state(state: pb.ItemState) -> ItemState:
    return ItemState(
        item_id=state.item_id,
        title=state.title,
        categories=tuple(state.categories),
        available=state.available,
        popularity=state.popularity,
        trained=state.trained,
        live=state.live,
        modalities=tuple(state.modalities),
    )
