"""What a client asks with and gets back: plain, typed values in the shop's ids."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict

from mmsr.engine.errors import EngineError


class FilterOptions(TypedDict, total=False):
    """What restricts the items of an answer, and which model gives it."""

    excluded_ids: Iterable[str]  # never these
    allowed_ids: Iterable[str] | None  # only these; None: any
    include_categories: Iterable[str]  # only items that have one of these; none: any item
    exclude_categories: Iterable[str]  # no items that have one of these
    only_available: bool | None  # None: yes
    label: str  # of the model; "": the server's default


class Options(FilterOptions, total=False):
    """Everything that may be said of a recommendation beside history and k."""

    exclude_seen: (
        bool | None
    )  # whether the history's own items stay out; None: the bundle's default
    user_key: str  # whose request it is: decides the side of a split


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request of several; the fields are those of `Options`."""

    history: Iterable[str]  # oldest first
    k: int = 10
    excluded_ids: Iterable[str] = ()
    allowed_ids: Iterable[str] | None = None
    include_categories: Iterable[str] = ()
    exclude_categories: Iterable[str] = ()
    only_available: bool | None = None
    label: str = ""
    exclude_seen: bool | None = None
    user_key: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamRequest:
    """One request on a stream."""

    request: Request
    key: str = ""  # comes back with the answer; those of equal keys come in order
    deadline_ms: int = 0  # from its arrival at the server; 0: that of the stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendations:
    """The answer to one request."""

    items: tuple[tuple[str, float], ...]  # id and score, best first
    model_version: str
    queue_us: int
    compute_us: int
    batch_size: int
    unknown_ids: int  # of the history
    fallback: str | None  # "popularity", or None when the model answered
    # Which ones: each once, the first 100 of them; older servers name none.
    unknown_item_ids: tuple[str, ...] = ()
    catalogue_version: int = 0  # changes of the live catalogue that the answer has seen


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamAnswer:
    """The answer to one request on a stream, or why there is none."""

    key: str
    result: Recommendations | EngineError


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Candidates as the model ranks them."""

    items: tuple[tuple[str, float], ...]  # id and score, best first
    unknown_candidate_ids: tuple[str, ...]
    model_version: str
    queue_us: int
    compute_us: int
    batch_size: int
    unknown_ids: int  # of the history
    catalogue_version: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbours:
    """The items nearest to an item."""

    items: tuple[tuple[str, float], ...]  # id and cosine, nearest first
    model_version: str
    compute_us: int
    catalogue_version: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemExplanation:
    """What one item's score hangs on. A change below 0: what was left out speaks for the item."""

    item_id: str
    score: float
    history_changes: tuple[float, ...]  # without each item of the history; empty if it has one
    source_changes: Mapping[str, float]  # without each source of the attention


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanations:
    """Why items have their scores."""

    items: tuple[ItemExplanation, ...]  # best first
    history: tuple[str, ...]  # the known ids that the model read, oldest first
    attention: tuple[float, ...]  # where the last block looks: parallel to it, sums to 1
    unknown_item_ids: tuple[str, ...]  # of those asked about
    model_version: str
    compute_us: int
    catalogue_version: int
