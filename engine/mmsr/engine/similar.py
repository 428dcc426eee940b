"""The items nearest to an item, by cosine, exactly, with the filters of a recommendation."""

# C rows of the tables, D columns

from collections.abc import Callable, Sequence
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
from mmsr.engine.service import Service

Result = TypeVar("Result")

PIECE = 65_536  # rows that are compared before a batch may go between
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
        missed as a neighbour.
        """
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
            rows = await timed(partial(self._candidates, request))
            dense = DENSE * len(rows) >= len(table_CD)
            cosine_n = np.zeros(len(table_CD) if dense else len(rows), np.float32)
            for part in slices(len(cosine_n), PIECE):
                compared = part if dense else rows[part]
                cosine_n[part] = await timed(partial(_compared, table_CD, compared, query_D))
            if dense:
                cosine_n = cosine_n[rows]
            choose = partial(self._choose, request, rows, cosine_n)
            compare = partial(self._compare, choose, table_CD, query_D)
            numbers, cosine_K = await timed(compare)
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

    def _candidates(self, request: RowRequest) -> Rows:
        """Return the rows that may come back, ascending."""
        [placed] = self._vectors.placement.placed([request])
        rows = self._vectors.filters.candidates(placed)
        return rows[~np.isin(rows, placed.excluded)]

    def _choose(self, request: RowRequest, rows_n: Rows, cosine_n: Floats) -> Rows:
        """Return the best of the rows that still pass, ascending."""
        [placed] = self._vectors.placement.placed([request])
        still_n = self._vectors.filters.passing(placed, rows_n)
        still_n &= ~np.isin(rows_n, placed.excluded)
        chosen, _ = best(cosine_n[still_n], rows_n[still_n], request.k)
        return np.sort(chosen)

    def _compare(
        self, choose: Callable[[], Rows], table_CD: Floats, query_D: Floats
    ) -> tuple[Sequence[int], Floats]:
        """Return the numbers of the chosen rows by their cosines as the table is now."""
        rows_K, cosine_K = _ranked(choose(), table_CD, query_D)
        return self._vectors.placement.numbers(rows_K.tolist()), cosine_K

    def _timed(self, call: Callable[[], Result]) -> tuple[Result, float]:
        """Compute; return the seconds too."""
        began = self._clock()
        result = call()
        return result, self._clock() - began


def _compared(table_CD: Floats, rows: slice | Rows, query_D: Floats) -> Floats:
    return cosines(table_CD[rows], query_D)


def _ranked(rows: Rows, table_CD: Floats, query_D: Floats) -> tuple[Rows, Floats]:
    """Return some rows, which ascend, by their cosines as the table is now."""
    return best(cosines(table_CD[rows], query_D), rows, len(rows))
