"""What one catalogue request may ask for, as written in catalogue.proto, and what may wait."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CatalogueLimits:
    """The contract's limits."""

    items: int = 1000  # of one upsert
    ids: int = 10_000  # of one deletion or change of availability
    read_ids: int = 1000  # of one GetItems
    page_size: int = 1000
    default_page_size: int = 100
    id_bytes: int = 512
    text_bytes: int = 100_000
    categories: int = 100
    category_bytes: int = 512
    image_bytes: int = 3 << 20
    waiting: int = 256  # messages that are not acknowledged yet; more are refused
    waiting_bytes: int = 64 << 20  # of these messages
    group: int = 64  # messages of one commit
