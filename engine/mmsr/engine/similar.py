"""The items nearest to an item, by cosine, exactly, with the filters of a recommendation."""

# C rows of the tables, D columns

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Self, TypeVar

import numpy as np

from mmsr.engine.asides import Asides
from mmsr.engine.batch_times import BatchTimes
from mmsr.engine.catalogue.placement import NOWHERE, Placement
from mmsr.engine.checks import check_ids, check_similar
from mmsr.engine.cosine import Floats, Rows, best, cosines, slices
from mmsr.engine.errors import InvalidRequest, NoContentVectors, UnknownItem
from mmsr.engine.filters import RowFilters
from mmsr.engine.model import SequenceModel
from mmsr.engine.query import SimilarQuery, SimilarReply
from mmsr.engine.rows import RowRequest
from mmsr.engine.service import ASKED_AGAIN, Service

Result = TypeVar("Result")

# Rows that are compared before a batch may go between: a few milliseconds.
PIECE = 32_768
GATHERED = PIECE // 4  # the same of rows that do not lie side by side
DENSE = 4  # from a quarter of the rows on, a pass over all costs less than gathering


class Vectors(NamedTuple):
    """What the items of a model are compared by; read in place."""

    outputs_CD: Floats
    content_CD: Floats | None  # None: the bundle has none
    filters: RowFilters
    placement: Placement

    @classmethod
    def of(cls, model: SequenceModel) -> Self:
        """Return those of an open model."""
        bundle = model.bundle
        return cls(bundle.item_outputs_CD, bundle.content_CD, model.filters, model.placement)


class SimilarItems:
    """Compares items of one bundle by its output vectors or by its content vectors."""

    def __init__(
        self,
        service: Service,
        asides: Asides,
        vectors: Vectors,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._service = service
        self._asides = asides
        self._vectors = vectors
        self._clock = clock
        self._times = BatchTimes()

    async def nearest(self, query: SimilarQuery, deadline: float | None = None) -> SimilarReply:
        """Return the k nearest items that the filters let pass, never the item itself.

        `InvalidRequest`, `UnknownItem`, `NoContentVectors`, and what `Asides.turn` raises. A change
        of the catalogue that comes while rows are compared is seen by the filters and may be
        missed as a neighbour. What is denied by an id that comes meanwhile does not come back.
        """
        denied = set(query.excluded_ids)
        for _ in range(1 + ASKED_AGAIN):
            reply = await self._nearest(query, deadline)
            if not denied or denied.isdisjoint(reply.item_ids):
                break
        return reply

    async def _nearest(self, query: SimilarQuery, deadline: float | None) -> SimilarReply:
        check_similar(query, self._service.limits)
        number = self._number_of(query.item_id)
        table_CD = self._table(query)
        request = self._request(query, number)
        items = self._service.items
        version = items.version
        spent_us = 0.0

        async def timed(call: Callable[[], Result]) -> Result:
            nonlocal spent_us
            result, seconds = await self._asides.piece(partial(self._timed, call))
            spent_us += 1e6 * seconds
            return result

        async with self._asides.turn(self._times, 1, deadline):
            query_D = self._vector(table_CD, number, query.item_id)
            few = await timed(partial(self._few, request, len(table_CD)))
            nearest: list[Rows] = []
            for rows in _parts(few, len(table_CD)):
                some = partial(self._best_of, request, rows, table_CD, query_D)
                nearest.append(await timed(some))
            merged = partial(self._merged, request, nearest, table_CD, query_D)
            numbers, cosine_K = await timed(merged)
        found = items.ids_of(numbers)
        return SimilarReply(found, cosine_K.tolist(), round(spent_us), version)

    def _number_of(self, item_id: str) -> int:
        if not item_id:
            raise InvalidRequest("item_id is empty; expected the id of an item")
        rows = self._service.items.rows_of([item_id])
        if not rows:
            check_ids("item_id", [item_id], self._service.limits)
            raise UnknownItem(f"item_id {item_id!r}: the catalogue has no such item")
        return rows[0]

    def _vector(self, table_CD: Floats, number: int, item_id: str) -> Floats:
        placement = self._vectors.placement
        with placement.lock:
            row = placement.row(number)
            if row == NOWHERE:  # removed while the query waited
                raise UnknownItem(f"item_id {item_id!r}: the catalogue has no such item")
            return np.array(table_CD[row])

    def _table(self, query: SimilarQuery) -> Floats:
        if not query.by_content:
            return self._vectors.outputs_CD
        if self._vectors.content_CD is None:
            raise NoContentVectors(
                f"bundle {self._service.facts.version} was exported without content vectors (by "
                "an older release, or of a model whose output vectors hold no content); export "
                "the model again, or compare by SIMILAR_BY_OUTPUT"
            )
        return self._vectors.content_CD

    def _request(self, query: SimilarQuery, number: int) -> RowRequest:
        service = self._service
        wanted = service.filters.categories.filter_of(
            query.include_categories, query.exclude_categories
        )
        return RowRequest(
            [],
            [number, *service.excluded_rows(query)],
            min(query.k, len(service.items)),
            service.allowed_rows(query),
            wanted,
            query.only_available,
        )

    def _few(self, request: RowRequest, capacity: int) -> Rows | None:
        """Return the rows that the filters name, ascending; None: so many that all are read."""
        filters = self._vectors.filters
        [request] = self._vectors.placement.placed([request])
        if request.allowed is None:
            wanted = request.categories
            if wanted is None or DENSE * filters.categories.count(wanted) >= capacity:
                return None
        return filters.candidates(request)

    def _best_of(
        self, request: RowRequest, rows: slice | Rows, table_CD: Floats, query_D: Floats
    ) -> Rows:
        """Return the nearest of some rows that may come back."""
        [request] = self._vectors.placement.placed([request])
        cosine_n = cosines(table_CD[rows], query_D)
        rows_n = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        passing_n = self._vectors.filters.passing(request, rows_n)
        passing_n &= ~np.isin(rows_n, request.excluded)
        return best(cosine_n[passing_n], rows_n[passing_n], request.k)[0]

    def _merged(
        self, request: RowRequest, nearest: list[Rows], table_CD: Floats, query_D: Floats
    ) -> tuple[Sequence[int], Floats]:
        """Return the nearest of all pieces that still pass, by the table as it is now."""
        [request] = self._vectors.placement.placed([request])
        rows_n = np.sort(np.concatenate([np.empty(0, np.int64), *nearest]))
        rows_n = rows_n[self._vectors.filters.passing(request, rows_n)]
        rows_n = rows_n[~np.isin(rows_n, request.excluded)]
        rows_K, cosine_K = best(cosines(table_CD[rows_n], query_D), rows_n, request.k)
        return self._vectors.placement.numbers(rows_K.tolist()), cosine_K

    def _timed(self, call: Callable[[], Result]) -> tuple[Result, float]:
        """Compute; return the seconds too."""
        began = self._clock()
        result = call()
        return result, self._clock() - began


def _parts(few: Rows | None, capacity: int) -> Iterator[slice | Rows]:
    """Cut some rows, or all, into pieces between which batches may go."""
    if few is None:
        return slices(capacity, PIECE)
    return (few[part] for part in slices(len(few), GATHERED))
