"""Explanations in the shop's ids, beside the recommendations. Knows nothing of gRPC."""

from collections.abc import Callable, Sequence
from functools import partial

from mmsr.engine.asides import Asides
from mmsr.engine.batch_times import BatchTimes
from mmsr.engine.checks import check_explain, require_known
from mmsr.engine.explain import Explainer, Explanation
from mmsr.engine.query import ExplainedItem, ExplainQuery, ExplainReply
from mmsr.engine.rows import RowRequest
from mmsr.engine.service import ASKED_AGAIN, Service

EXPLAINED = 10  # items, where a query names neither items nor k


class ExplainItems:
    """Explains what one bundle recommends."""

    def __init__(
        self,
        service: Service,
        asides: Asides,
        explainer: Explainer,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._service = service
        self._asides = asides
        self._explainer = explainer
        self._clock = clock
        self._times = BatchTimes()  # by variants of a request
        self._loads = BatchTimes()  # of the graph: apart, or the first call would spoil the others

    async def explain(self, query: ExplainQuery, deadline: float | None = None) -> ExplainReply:
        """Explain the items named, or the k best.

        `InvalidRequest`, `NotExplainable`, and what `Batcher.submit` and `Asides.turn` raise.
        """
        check_explain(query, self._service.limits)
        self._explainer.require()
        with self._asides.visit():
            for _ in range(1 + ASKED_AGAIN):
                seen, _ = self._service.history_rows(query.history)
                reply = await self._explain(query, deadline)
                if seen == self._service.history_rows(query.history)[0]:
                    break  # else it was read with an item that is gone, or without one that came
        return reply

    async def _explain(self, query: ExplainQuery, deadline: float | None) -> ExplainReply:
        service = self._service
        seen, _ = service.history_rows(query.history)
        require_known(seen, query.history)
        rows, unknown = service.named_rows("item_ids", query.item_ids)
        history = seen[-service.facts.max_length :]
        version = service.items.version
        if not query.item_ids:
            rows = await self._best(seen, history, query.k or EXPLAINED, deadline)
        if not self._explainer.loaded:
            async with self._asides.turn(self._loads, 1, deadline):
                await self._asides.piece(self._explainer.runner)
        variants = 1 + len(history) + len(self._explainer.sources)
        async with self._asides.turn(self._times, variants, deadline):
            explanation, seconds = await self._asides.piece(partial(self._computed, history, rows))
        return ExplainReply(
            self._items(explanation),
            service.items.ids_of(history),
            explanation.attention,
            unknown + self._gone(query, rows, explanation),
            round(1e6 * seconds),
            version,
        )

    async def _best(
        self, seen: list[int], history: list[int], k: int, deadline: float | None
    ) -> list[int]:
        service = self._service
        excluded = list(dict.fromkeys(seen)) if service.facts.exclude_seen else []
        request = RowRequest(history, excluded, min(k, len(service.items)))
        return (await service.batcher.submit(request, deadline)).answer.rows

    def _computed(self, history: Sequence[int], rows: Sequence[int]) -> tuple[Explanation, float]:
        """Explain, and say how long it took."""
        began = self._clock()
        explanation = self._explainer.explain(history, rows)
        return explanation, self._clock() - began

    def _gone(
        self, query: ExplainQuery, rows: Sequence[int], explanation: Explanation
    ) -> list[str]:
        """Return which of the items named were removed while the question waited."""
        if not query.item_ids:
            return []
        explained = {item.row for item in explanation.items}
        return self._service.items.ids_of(row for row in rows if row not in explained)

    def _items(self, explanation: Explanation) -> list[ExplainedItem]:
        """Return what is said of the items, the best first."""
        reasons = sorted(explanation.items, key=lambda item: -item.score)
        ids = self._service.items.ids_of([item.row for item in reasons])
        return [
            ExplainedItem(item_id, item.score, item.history_changes, [*item.source_changes.items()])
            for item_id, item in zip(ids, reasons, strict=True)
        ]
