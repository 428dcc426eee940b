"""One request from item ids to item ids: check, look up, compute in a batch, look up.

Knows nothing of gRPC; both faces of the server (and tests) call it with plain values.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from mmsr.engine.batcher import Batcher
from mmsr.engine.config import Limits
from mmsr.engine.errors import InvalidRequest
from mmsr.engine.items import ItemIndex
from mmsr.engine.model import RowAnswer, RowRequest

NAMED_UNKNOWN = 100  # ids in a reply: 50 KiB at most


class Query(NamedTuple):
    """What a caller asks, in the shop's ids."""

    history: Sequence[str]  # oldest first
    k: int
    excluded_ids: Sequence[str] = ()
    exclude_seen: bool | None = None  # None: the bundle's default


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


class ModelFacts(NamedTuple):
    """What the service must know of the model behind the batcher."""

    version: str
    max_length: int
    exclude_seen: bool


class Service:
    """Recommends with one version of the model."""

    def __init__(
        self,
        items: ItemIndex,
        batcher: Batcher[RowRequest, RowAnswer],
        facts: ModelFacts,
        limits: Limits,
    ) -> None:
        self.items = items
        self.batcher = batcher
        self.facts = facts
        self.limits = limits

    async def recommend(self, query: Query, deadline: float | None = None) -> Reply:
        """Answer a query; `deadline` is a point of the batcher's clock.

        `InvalidRequest`, and whatever `Batcher.submit` raises.
        """
        self._check_sizes(query)
        seen = self.items.rows_of(query.history)
        unknown: list[str] = []
        if len(seen) < len(query.history):
            unknown = self.items.unknown_of(query.history)
            self._check_ids("history", unknown)
        excluded = self._excluded(query, seen)
        k = min(query.k, len(self.items))
        if not seen:
            return self._popular(k, excluded, unknown)
        history = seen[-self.facts.max_length :]
        ride = await self.batcher.submit(RowRequest(history, excluded, k), deadline)
        return Reply(
            self.items.ids_of(ride.answer.rows),
            ride.answer.scores,
            len(unknown),
            False,
            ride.queue_us,
            ride.compute_us,
            ride.batch_size,
            _named(unknown),
        )

    def _popular(self, k: int, excluded: list[int], unknown: list[str]) -> Reply:
        rows, popularity = self.items.most_popular(k, excluded)
        return Reply(
            self.items.ids_of(rows),
            popularity,
            len(unknown),
            True,
            unknown_item_ids=_named(unknown),
        )

    def _excluded(self, query: Query, seen: list[int]) -> list[int]:
        excluded: list[int] = []
        if query.excluded_ids:
            excluded = self.items.rows_of(query.excluded_ids)
            if len(excluded) != len(query.excluded_ids):
                self._check_ids("excluded_ids", self.items.unknown_of(query.excluded_ids))
        exclude_seen = query.exclude_seen
        if exclude_seen is None:
            exclude_seen = self.facts.exclude_seen
        barred = excluded + seen if exclude_seen else excluded
        return list(dict.fromkeys(barred))  # the batch is as wide as its longest list

    def _check_sizes(self, query: Query) -> None:
        if not 1 <= query.k <= self.limits.k:
            raise InvalidRequest(f"k is {query.k}; expected 1 to {self.limits.k}")
        if len(query.history) > self.limits.history:
            raise InvalidRequest(
                f"history has {len(query.history)} ids; expected at most {self.limits.history}: "
                "send the newest"
            )
        if len(query.excluded_ids) > self.limits.excluded:
            raise InvalidRequest(
                f"excluded_ids has {len(query.excluded_ids)} ids; expected at most "
                f"{self.limits.excluded}"
            )

    def _check_ids(self, field: str, unknown: Iterable[str]) -> None:
        """Check the ids that the catalogue does not have; its own were checked at load."""
        for item_id in unknown:
            if not item_id:
                raise InvalidRequest(f"{field} holds an empty id; expected the shop's item ids")
            if len(item_id) * 4 > self.limits.id_bytes:  # UTF-8 has up to 4 bytes a character
                size = len(item_id.encode())
                if size > self.limits.id_bytes:
                    raise InvalidRequest(
                        f"{field} holds an id of {size} bytes ({item_id[:20]}…); "
                        f"expected at most {self.limits.id_bytes}"
                    )


def _named(unknown: list[str]) -> list[str]:
    return list(islice(dict.fromkeys(unknown), NAMED_UNKNOWN)) if unknown else unknown
