"""Which frozen features an item needs for a bundle, and where they come from."""

import logging
from collections.abc import Mapping
from typing import NamedTuple

from mmsr.bundle.preprocess import ImageError
from mmsr.engine.catalogue.encoders import Encoder, Encoders, key_of
from mmsr.engine.catalogue.projector import Projector
from mmsr.engine.catalogue.records import Content, FeatureKey, Floats, Record
from mmsr.engine.catalogue.store import CatalogueStore

log = logging.getLogger(__name__)
Features = dict[FeatureKey, Floats]


class Reader(NamedTuple):
    """How one bundle reads items."""

    encoders: Mapping[str, Encoder]  # by modality
    projector: Projector


class Wanted(NamedTuple):
    """One feature that an item needs."""

    encoder: Encoder
    key: FeatureKey
    text: str  # what it is made of; empty for an image, or where only the feature was given


def wanted_features(content: Content, reader: Reader) -> list[Wanted]:
    """Return which features a bundle reads of an item."""
    found = []
    image, text = reader.encoders.get("image"), reader.encoders.get("text")
    if image is not None and content.image:
        found.append(Wanted(image, image.feature_key(content.image), ""))
    if text is not None:
        words = text.text_of(content, reader.projector)
        if content.text:
            found.append(Wanted(text, text.feature_key(content.text), words))
        elif words:
            found.append(Wanted(text, text.feature_key(key_of(words.encode())), words))
    return found


def by_modality(content: Content, reader: Reader, features: Features) -> dict[str, Floats]:
    """Return the features that a bundle reads of an item, as far as they are there."""
    return {
        want.key.modality: features[want.key]
        for want in wanted_features(content, reader)
        if want.key in features
    }


def can_be_made(want: Wanted, file: bytes) -> bool:
    """Tell whether there is something to encode; a feature given by its maker may be all there is.

    `file` is the item's image file, or empty.
    """
    if want.encoder.modality == "text":
        return bool(want.text)
    return bool(file) and key_of(file) == want.key.content


def make_features(
    content: Content, file: bytes, reader: Reader, encoders: Encoders, have: Features
) -> Features:
    """Return what a bundle needs of an item and `have` lacks, as far as it can be made.

    `ImageError`: the image file cannot be used.
    """
    made: Features = {}
    for want in wanted_features(content, reader):
        if want.key in have or not can_be_made(want, file):
            continue
        if want.encoder.modality == "text":
            made[want.key] = encoders.text(want.encoder, want.text)
        else:
            made[want.key] = encoders.image(want.encoder, file)
    return made


def complete(
    record: Record, file: bytes, reader: Reader, encoders: Encoders, have: Features
) -> Features:
    """Return `have` and what else a bundle needs of an item that is accepted already.

    An image that its encoder cannot use is left out, and said in the log.
    """
    content = record.content
    assert content is not None
    try:
        made = make_features(content, file, reader, encoders, have)
    except ImageError as error:
        log.warning("item %r: its image is left out: %s", record.item_id, error)
        made = make_features(content, b"", reader, encoders, have)
    return have | made


def stored_features(
    record: Record, reader: Reader, encoders: Encoders, store: CatalogueStore, have: Features
) -> Features:
    """Return all that a bundle needs of a kept item; what had to be encoded anew is kept."""
    assert record.content is not None
    wanted = {want.key: want for want in wanted_features(record.content, reader)}
    lacking = [want for key, want in wanted.items() if key not in have]
    if not lacking:
        return have
    file = store.image(record.item_id) if any(not want.text for want in lacking) else b""
    found = complete(record, file, reader, encoders, have)
    if made := {key: found[key] for key in found.keys() - have.keys()}:
        store.keep_features(record.item_id, record.version, made)
    for want in lacking:
        if want.key not in found:
            log.warning(
                "item %r: bundle %s has another %s encoder and nothing is kept that it could "
                "read; the item goes without",
                record.item_id,
                want.encoder.folder.name,
                want.encoder.modality,
            )
    return found
