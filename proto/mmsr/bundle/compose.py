"""An item's fields as one text, and its brand as a category.

Shared by training and serving, so that there is one way only. Knows nothing of encoders; needs
the standard library only.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

BRAND = "brand: "  # of the category's name, so that a brand "Makeup" is no category "Makeup"


def compose_text(item: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Join the fields in their order: "title. brand. category, category. description".

    Whitespace is normalised, empty fields are left out; an item without any gives "".
    """
    parts = (_plain(item.get(field)) for field in fields)
    return ". ".join(part for part in parts if part)


def with_brand(categories: Sequence[str], brand: str, known: Collection[str]) -> tuple[str, ...]:
    """Return the categories, with the brand's own at the end if it is `known` as one.

    It is where the data were prepared with brands as categories.
    """
    name = BRAND + brand
    if not brand or name not in known or name in categories:
        return tuple(categories)
    return (*categories, name)


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, Sequence):
        return ", ".join(part for part in map(_plain, value) if part)
    raise TypeError(f"an item's field is {type(value).__name__}, expected text or a list of texts")
