"""An item's fields as one text. Knows nothing of encoders; needs the standard library only."""

from collections.abc import Mapping, Sequence
from typing import Any


def compose_text(item: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Join the fields in their order: "title. brand. category, category. description".

    Whitespace is normalised, empty fields are left out; an item without any gives "".
    """
    parts = (_plain(item.get(field)) for field in fields)
    return ". ".join(part for part in parts if part)


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, Sequence):
        return ", ".join(part for part in map(_plain, value) if part)
    raise TypeError(f"an item's field is {type(value).__name__}, expected text or a list of texts")
