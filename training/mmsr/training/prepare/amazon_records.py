"""What an Amazon record says of an item, field by field, in the words of prepared data."""

import html
from typing import Any

from mmsr.training.prepare.amazon_editions import Edition

PAGE_CODE = "title is a piece of page code"
# Some titles of 2018 are scripts of the shop's page; its own notebook leaves them out by this word.
PAGE_CODE_MARK = "getTime"
# 2023 links, best first: the encoders read some 224 pixels a side, `large` has about 500 and is a
# small part of the bytes of `hi_res`.
SIZES_2023 = ("large", "hi_res", "thumb")
ITEM_FIELDS = {
    Edition.Y2014: ("asin", "title", "description", "brand", "categories", "imUrl"),
    Edition.Y2018: (
        *("asin", "title", "description", "brand", "category"),
        *("imageURLHighRes", "imageURL", "image"),
    ),
    Edition.Y2023: (
        *("parent_asin", "title", "description", "features", "store", "categories", "images"),
    ),
}
REVIEW_FIELDS = {
    Edition.Y2014: ("reviewerID", "asin", "unixReviewTime", "overall"),
    Edition.Y2018: ("reviewerID", "asin", "unixReviewTime", "overall"),
    Edition.Y2023: ("user_id", "parent_asin", "timestamp", "rating"),
}


def item_values(record: dict[str, Any], edition: Edition) -> dict[str, Any]:
    """Return an item's columns; `image` is the link to its first picture, or None.

    Entities are unescaped, lists of texts joined, nested categories flattened. What is of an
    unexpected type stays as it is: the cleaner of items notes it.
    """
    if edition is Edition.Y2023:
        texts = [record.get("description"), record.get("features")]
        return _values(record, "parent_asin", "store", "categories") | {
            "description": joined(texts),
            "image": _link_2023(record.get("images")),
        }
    if edition is Edition.Y2018:
        links = [record.get(name) for name in ("imageURLHighRes", "imageURL", "image")]
        return _values(record, "asin", "brand", "category") | {
            "description": joined(record.get("description")),
            "image": next(filter(None, map(_first_text, links)), None),
        }
    return _values(record, "asin", "brand", "categories") | {
        "description": joined(record.get("description")),
        "image": _first_text(record.get("imUrl")),
    }


def plain(value: object) -> object:
    """Return a text without entities and line breaks; anything else as it is."""
    if not isinstance(value, str):
        return value
    return whole(" ".join(html.unescape(value).split()))


def whole(text: str) -> str:
    """Return a text with surrogate pairs joined and halves replaced: what UTF-8 can hold."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def joined(value: object) -> object:
    """Return one text of a text or of (nested) lists of texts."""
    if not isinstance(value, list):
        return plain(value)
    texts = leaves(value)
    if any(not isinstance(text, str) for text in texts):
        return value
    return " ".join(str(plain(text)) for text in texts)


def leaves(value: object) -> list[object]:
    """Return what stands in nested lists, None left out."""
    if isinstance(value, list):
        return [leaf for part in value for leaf in leaves(part)]
    return [] if value is None else [value]


def _values(record: dict[str, Any], item_id: str, brand: str, categories: str) -> dict[str, Any]:
    names = record.get(categories)
    return {
        "item_id": record.get(item_id),
        "title": plain(record.get("title")),
        "brand": plain(record.get(brand)),
        "categories": [plain(name) for name in leaves(names)] if names is not None else None,
    }


def _first_text(value: object) -> str | None:
    return next((whole(text) for text in leaves(value) if isinstance(text, str) and text), None)


def _link_2023(images: object) -> str | None:
    if not isinstance(images, list):
        return None
    pictures = [picture for picture in images if isinstance(picture, dict)]
    pictures.sort(key=lambda picture: picture.get("variant") != "MAIN")  # stable: MAIN, then order
    return next(filter(None, (_first_text(p.get(s)) for p in pictures for s in SIZES_2023)), None)
