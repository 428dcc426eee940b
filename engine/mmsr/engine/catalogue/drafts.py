"""A catalogue request's items, checked field by field. Knows the messages of the contract."""

# F features of a modality

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmsr.engine.catalogue.config import CatalogueLimits
from mmsr.engine.catalogue.encoders import Encoder, key_of
from mmsr.engine.catalogue.records import Content, FeatureKey, Floats
from mmsr.engine.errors import InvalidRequest
from mmsr.v1 import catalogue_pb2 as pb

# Encoders answer numbers of a few units; beyond this, products of an item's row could overflow.
LARGEST_FEATURE = 1e6
LARGEST_POPULARITY = 2**63 - 1  # what SQLite holds


class Draft(NamedTuple):
    """An item to be written."""

    item_id: str
    content: Content
    file: bytes  # the image; empty: none
    given: Mapping[FeatureKey, Floats]  # features that came instead of an image or of texts
    available: bool
    popularity: int | None


def drafts_of(
    items: Sequence[pb.Item], encoders: Mapping[str, Encoder], limits: CatalogueLimits
) -> list[Draft]:
    """Check all items of one message; `InvalidRequest` names the field that is out of its range."""
    check_count("items", len(items), limits.items)
    seen: set[str] = set()
    drafts = []
    for place, item in enumerate(items):
        field = f"items[{place}]"
        check_id(f"{field}.item_id", item.item_id, limits)
        if item.item_id in seen:
            raise InvalidRequest(f"{field}.item_id is {item.item_id!r} again; an id may stand once")
        seen.add(item.item_id)
        drafts.append(_draft(field, item, encoders, limits))
    return drafts


def check_count(field: str, count: int, most: int) -> None:
    """Refuse an empty list and one that is too long."""
    if not 1 <= count <= most:
        raise InvalidRequest(f"{field} has {count} entries; expected 1 to {most:,}")


def check_ids(item_ids: Collection[str], most: int, limits: CatalogueLimits) -> None:
    """Check a request's `item_ids`."""
    check_count("item_ids", len(item_ids), most)
    for place, item_id in enumerate(item_ids):
        check_id(f"item_ids[{place}]", item_id, limits)


def check_id(field: str, item_id: str, limits: CatalogueLimits) -> None:
    """Refuse an id that is empty or too long."""
    size = len(item_id.encode())
    if not 1 <= size <= limits.id_bytes:
        raise InvalidRequest(
            f"{field} has {size} bytes ({item_id[:20]!r}); expected 1 to {limits.id_bytes}"
        )


def _draft(
    field: str, item: pb.Item, encoders: Mapping[str, Encoder], limits: CatalogueLimits
) -> Draft:
    for name in ("title", "description", "brand"):
        _check_size(f"{field}.{name}", getattr(item, name), limits.text_bytes)
    if len(item.categories) > limits.categories:
        raise InvalidRequest(
            f"{field}.categories has {len(item.categories)} entries; expected at most "
            f"{limits.categories}"
        )
    for place, name in enumerate(item.categories):
        where = f"{field}.categories[{place}]"
        if not name:
            raise InvalidRequest(f"{where} is empty; expected a name")
        _check_size(where, name, limits.category_bytes)
    if item.popularity > LARGEST_POPULARITY:
        raise InvalidRequest(
            f"{field}.popularity is {item.popularity}; expected at most {LARGEST_POPULARITY}"
        )
    given, image, text = _given(field, item, encoders, limits)
    content = Content(
        title=item.title,
        description=item.description,
        brand=item.brand,
        categories=tuple(dict.fromkeys(item.categories)),
        image=image,
        text=text,
    )
    return Draft(
        item.item_id,
        content,
        item.image,
        given,
        item.available if item.HasField("available") else True,
        item.popularity if item.HasField("popularity") else None,
    )


def _given(
    field: str, item: pb.Item, encoders: Mapping[str, Encoder], limits: CatalogueLimits
) -> tuple[dict[FeatureKey, Floats], bytes, bytes]:
    """Return the features given, and what the image and the text are known by."""
    given: dict[FeatureKey, Floats] = {}
    image = text = b""
    if item.image:
        if item.image_features:
            raise InvalidRequest(f"{field} has both image and image_features; give one of them")
        _check_size(f"{field}.image", item.image, limits.image_bytes)
        image = key_of(item.image)
    elif item.image_features:
        values_F = _features(f"{field}.image_features", item.image_features, encoders.get("image"))
        image = key_of(values_F.tobytes())
        given[encoders["image"].feature_key(image)] = values_F
    if item.text_features:
        values_F = _features(f"{field}.text_features", item.text_features, encoders.get("text"))
        text = key_of(values_F.tobytes())
        given[encoders["text"].feature_key(text)] = values_F
    return given, image, text


def _features(field: str, values: Sequence[float], encoder: Encoder | None) -> Floats:
    if encoder is None:
        raise InvalidRequest(f"{field}: the model reads no such features; leave them out")
    if len(values) != encoder.width:
        raise InvalidRequest(f"{field} has {len(values)} numbers; expected {encoder.width}")
    values_F = np.array(values, np.float32)
    wrong_n = values_F[~(np.abs(values_F) <= LARGEST_FEATURE)]  # also what is no number
    if len(wrong_n):
        raise InvalidRequest(
            f"{field} holds {wrong_n[0]:g}; expected numbers of at most {LARGEST_FEATURE:,.0f} "
            "either side of 0"
        )
    return values_F


def _check_size(field: str, value: str | bytes, most: int) -> None:
    size = len(value.encode() if isinstance(value, str) else value)
    if size > most:
        raise InvalidRequest(f"{field} has {size} bytes; expected at most {most}")
