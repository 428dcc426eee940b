"""What callers ask and get, in the shop's ids: plain values. Knows nothing of rows or gRPC."""

from collections.abc import Sequence
from typing import NamedTuple


class Query(NamedTuple):
    """What a caller asks to be recommended."""

    history: Sequence[str]  # oldest first
    k: int
    excluded_ids: Sequence[str] = ()
    exclude_seen: bool | None = None  # None: the bundle's default
    allowed_ids: Sequence[str] | None = None  # None: all
    include_categories: Sequence[str] = ()  # any of these; none: whatever it has
    exclude_categories: Sequence[str] = ()
    only_available: bool = True
    user_key: str = ""


class Reply(NamedTuple):
    """Best first; `item_ids` and `scores` are parallel."""

    item_ids: list[str]
    scores: list[float]
    unknown_ids: int  # of the history
    popular: bool  # no model: the most popular items, with their popularity as scores
    queue_us: int = 0
    compute_us: int = 0
    batch_size: int = 0  # 0: nothing was computed
    unknown_item_ids: Sequence[str] = ()  # of the history, each once, not more than NAMED_UNKNOWN
    catalogue_version: int = 0  # changes of the catalogue that it has seen, at least


class ScoreQuery(NamedTuple):
    """Which candidates a caller wants ranked."""

    history: Sequence[str]  # oldest first
    candidate_ids: Sequence[str]
    user_key: str = ""


class ScoreReply(NamedTuple):
    """The known candidates, best first."""

    item_ids: list[str]
    scores: list[float]
    unknown_candidate_ids: list[str]  # each once
    unknown_ids: int  # of the history
    queue_us: int = 0
    compute_us: int = 0
    batch_size: int = 0
    catalogue_version: int = 0


class SimilarQuery(NamedTuple):
    """Which item a caller wants the nearest of."""

    item_id: str
    k: int
    by_content: bool = False  # else by the output vectors
    excluded_ids: Sequence[str] = ()
    allowed_ids: Sequence[str] | None = None
    include_categories: Sequence[str] = ()
    exclude_categories: Sequence[str] = ()
    only_available: bool = True


class SimilarReply(NamedTuple):
    """Nearest first."""

    item_ids: list[str]
    similarities: list[float]  # cosines
    compute_us: int
    catalogue_version: int


class ExplainQuery(NamedTuple):
    """What a caller wants explained."""

    history: Sequence[str]  # oldest first
    item_ids: Sequence[str] = ()  # none: the k best
    k: int = 0  # 0: EXPLAINED
    user_key: str = ""


class ExplainedItem(NamedTuple):
    """What one item's score hangs on; see `mmsr.engine.explain.ItemReasons`."""

    item_id: str
    score: float
    history_changes: Sequence[float]  # parallel to the reply's `history`
    source_changes: Sequence[tuple[str, float]]


class ExplainReply(NamedTuple):
    """Best first."""

    items: list[ExplainedItem]
    history: list[str]  # the known ids that the model read, oldest first
    attention: Sequence[float]  # parallel to it
    unknown_item_ids: list[str]  # of those asked about, each once
    compute_us: int
    catalogue_version: int
