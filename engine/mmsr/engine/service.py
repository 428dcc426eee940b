"""One request from item ids to item ids: check, look up, compute in a batch, look up.

Knows nothing of gRPC; both faces of the server (and tests) call it with plain values.
"""

import asyncio
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from mmsr.engine.batcher import Batcher, Ticket
from mmsr.engine.catalogue.named_filters import NamedFilters
from mmsr.engine.checks import check_ids, check_query, check_score, require_known
from mmsr.engine.config import Limits
from mmsr.engine.items import ItemIndex
from mmsr.engine.query import Query, Reply, ScoreQuery, ScoreReply, SimilarQuery
from mmsr.engine.rows import RowAnswer, RowRequest

__all__ = ["ModelFacts", "Query", "Reply", "Service"]

NAMED_UNKNOWN = 100  # ids in a reply: 50 KiB at most
ASKED_AGAIN = 3  # times, while the catalogue keeps changing what the ids of a query mean


class ModelFacts(NamedTuple):
    """What the service must know of the model behind the batcher."""

    version: str
    max_length: int
    exclude_seen: bool


class Begun(NamedTuple):
    """A query that was checked and queued, or answered without a computation."""

    query: Query
    unknown: Sequence[str]  # ids of the history
    catalogue_version: int
    popular: bool
    ticket: Ticket[RowRequest, RowAnswer] | None = None
    answer: RowAnswer | None = None  # where there is no ticket
    deadline: float | None = None
    bulk: bool = False


class Service:
    """Recommends with one version of the model."""

    def __init__(
        self,
        items: ItemIndex,
        batcher: Batcher[RowRequest, RowAnswer],
        facts: ModelFacts,
        limits: Limits,
        filters: NamedFilters,
    ) -> None:
        self.items = items
        self.batcher = batcher
        self.facts = facts
        self.limits = limits
        self.filters = filters

    async def recommend(self, query: Query, deadline: float | None = None) -> Reply:
        """Answer a query; `deadline` is a point of the batcher's clock.

        `InvalidRequest`, and whatever `Batcher.submit` raises.
        """
        return await self.settled(self.begin(query, deadline))

    async def settled(self, begun: Begun) -> Reply:
        """Wait for the answer to a query and return the reply; raises what `recommend` raises.

        The catalogue may change while a query waits. What is denied by an id that nobody had when
        it was queued could come back, and a history be read with an item that is gone: where its
        ids do not mean the same any more, the query is asked anew.
        """
        await self._ridden(begun)
        for _ in range(ASKED_AGAIN):
            if not self._is_outdated(begun):
                break
            begun = self.begin(begun.query, begun.deadline, bulk=begun.bulk)
            await self._ridden(begun)
        return self.finish(begun)

    async def _ridden(self, begun: Begun) -> None:
        if begun.ticket is None:
            return
        try:
            await begun.ticket.future
        except asyncio.CancelledError:
            self.batcher.withdraw(begun.ticket)
            raise

    def _is_outdated(self, begun: Begun) -> bool:
        """Tell whether the catalogue has changed what the ids of a query mean, since it began."""
        if begun.ticket is None or self.items.version == begun.catalogue_version:
            return False
        seen, _ = self.history_rows(begun.query.history)
        return self._request(begun.query, seen) != begun.ticket.job

    def begin(self, query: Query, deadline: float | None = None, *, bulk: bool = False) -> Begun:
        """Check a query and queue it; raises what `recommend` raises before it waits.

        `settled` gives the reply.
        """
        check_query(query, self.limits)
        seen, unknown = self.history_rows(query.history)
        request = self._request(query, seen)
        version = self.items.version
        if not seen and request.categories is None:  # else bitmaps are read: between batches only
            answer = self._most_popular(query, request)
            return Begun(query, unknown, version, True, answer=answer)
        ticket = self.batcher.enqueue(request, deadline, bulk=bulk)
        return Begun(query, unknown, version, not seen, ticket, deadline=deadline, bulk=bulk)

    def _request(self, query: Query, seen: list[int]) -> RowRequest:
        """Return a query in rows, as the catalogue is now."""
        return RowRequest(
            seen[-self.facts.max_length :],
            self._excluded(query, seen),
            min(query.k, len(self.items)),
            self.allowed_rows(query),
            self.filters.categories.filter_of(query.include_categories, query.exclude_categories),
            query.only_available,
        )

    def finish(self, begun: Begun) -> Reply:
        """Return the reply to a query whose answer is there; raise what the batcher says of it."""
        unknown = begun.unknown
        named = list(islice(dict.fromkeys(unknown), NAMED_UNKNOWN)) if unknown else unknown
        if begun.ticket is None:
            assert begun.answer is not None
            answer, times = begun.answer, (0, 0, 0)
        else:
            answer, *ride = begun.ticket.future.result()
            times = (ride[0], ride[1], ride[2])
        return Reply(
            self.items.ids_of(answer.rows),
            answer.scores,
            len(unknown),
            begun.popular,
            *times,
            unknown_item_ids=named,
            catalogue_version=begun.catalogue_version,
        )

    async def score(self, query: ScoreQuery, deadline: float | None = None) -> ScoreReply:
        """Rank candidates; raises what `recommend` raises."""
        check_score(query, self.limits)
        for _ in range(1 + ASKED_AGAIN):
            seen, unknown = self.history_rows(query.history)
            require_known(seen, query.history)
            rows, unknown_candidates = self.named_rows("candidate_ids", query.candidate_ids)
            version = self.items.version
            if not rows:
                return ScoreReply([], [], unknown_candidates, len(unknown), 0, 0, 0, version)
            history = seen[-self.facts.max_length :]
            request = RowRequest(history, [], len(rows), allowed=rows, only_available=False)
            ride = await self.batcher.submit(request, deadline)
            if version == self.items.version or (seen, rows) == self._score_rows(query):
                break
        return ScoreReply(
            self.items.ids_of(ride.answer.rows),
            ride.answer.scores,
            unknown_candidates,
            len(unknown),
            ride.queue_us,
            ride.compute_us,
            ride.batch_size,
            version,
        )

    def _score_rows(self, query: ScoreQuery) -> tuple[list[int], list[int]]:
        """Return what the ids of history and candidates mean now."""
        seen, _ = self.history_rows(query.history)
        return seen, self.named_rows("candidate_ids", query.candidate_ids)[0]

    def history_rows(self, history: Sequence[str]) -> tuple[list[int], list[str]]:
        """Return the rows of the known ids and the unknown ids, both in their order."""
        seen = self.items.rows_of(history)
        if len(seen) == len(history):
            return seen, []
        unknown = self.items.unknown_of(history)
        check_ids("history", unknown, self.limits)
        return seen, unknown

    def named_rows(self, field: str, item_ids: Sequence[str]) -> tuple[list[int], list[str]]:
        """Return the rows of the known ids and the unknown ids, each once."""
        unknown = list(dict.fromkeys(self.items.unknown_of(item_ids)))
        check_ids(field, unknown, self.limits)
        return list(dict.fromkeys(self.items.rows_of(item_ids))), unknown

    def allowed_rows(self, query: Query | SimilarQuery) -> list[int] | None:
        """Return the only rows that may come back; None: all."""
        if query.allowed_ids is None:
            return None
        return self._known_rows("allowed", query.allowed_ids)

    def excluded_rows(self, query: Query | SimilarQuery) -> list[int]:
        """Return the rows that the caller denies."""
        if not query.excluded_ids:
            return []
        return self._known_rows("excluded_ids", query.excluded_ids)

    def _most_popular(self, query: Query, request: RowRequest) -> RowAnswer:
        """Return the most popular rows; never one that is denied by an id that is not shown yet.

        Rows are read as they are now, also those of a change whose ids come a moment later.
        """
        while True:
            answer = self.filters.most_popular(request)
            ids = self.items.ids_of(answer.rows)
            if len(self.items.rows_of(ids)) == len(ids):
                return answer
            named = {*query.excluded_ids, *(query.history if self._leaves_seen_out(query) else ())}
            pairs = zip(answer.rows, ids, strict=True)
            denied = [row for row, item_id in pairs if item_id in named]
            if not denied:
                return answer
            request = request._replace(excluded=[*request.excluded, *denied])

    def _leaves_seen_out(self, query: Query) -> bool:
        return self.facts.exclude_seen if query.exclude_seen is None else query.exclude_seen

    def _excluded(self, query: Query, seen: list[int]) -> list[int]:
        excluded = self.excluded_rows(query)
        barred = excluded + seen if self._leaves_seen_out(query) else excluded
        return list(dict.fromkeys(barred))  # the batch is as wide as its longest list

    def _known_rows(self, field: str, item_ids: Sequence[str]) -> list[int]:
        rows = self.items.rows_of(item_ids)
        if len(rows) != len(item_ids):
            check_ids(field, self.items.unknown_of(item_ids), self.limits)
        return rows
