"""Answers the jobs of a batch that have no history with the most popular rows.

Runs in the computing thread: category filters are bitmaps that it alone may read.
"""

from collections.abc import Callable, Sequence

from mmsr.engine.catalogue.named_filters import NamedFilters
from mmsr.engine.rows import RowAnswer, RowRequest

Recommend = Callable[[Sequence[RowRequest]], Sequence[RowAnswer]]


def with_popular(recommend: Recommend, filters: NamedFilters) -> Recommend:
    """Return `recommend` extended by jobs with an empty history."""

    def answer(requests: Sequence[RowRequest]) -> Sequence[RowAnswer]:
        known = [request for request in requests if request.history]
        if len(known) == len(requests):
            return recommend(requests)
        found = iter(recommend(known) if known else ())
        return [next(found) if r.history else filters.most_popular(r) for r in requests]

    return answer


def history_length(request: RowRequest) -> int:
    """Return how many rows of a history are read."""
    return len(request.history)
