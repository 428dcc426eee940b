"""How each request of a batch is answered: on the graph's pass over all rows, or alone.

*On the pass*: everybody's states meet the whole table in one product. What is excluded is barred
there; of a category filter nothing is known there, so more is fetched and dropped afterwards. That
is exact where enough is left, which is checked; where not, the request is answered alone after all.
*Alone*: the rows that may come back are gathered and scored for this request only.

What a pass costs is shared by the batch and by threads; what is gathered is not. Of CPU time a row
costs 11 ns on a pass of one request and 1 ns a request on a pass of 32, against 30 ns gathered by
one thread (a million rows of width 64). What follows for whole requests: engine/results.
"""

# B requests of a batch, N items, k results

from typing import NamedTuple

from mmsr.engine.filters import RowFilters
from mmsr.engine.rows import RowRequest

GATHER_COSTS = 6  # times a row of a pass of one request, by the clock on two threads
LEAST_SHARED = 1 / 24  # of the rows: what a request of a large batch may still gather
MOST_FETCHED = 1000  # rows of one request, as engines are built for
SURPLUS = 1.75  # times as many as would do if the filter had nothing to do with the scores
MARGIN = 24


class Plan(NamedTuple):
    """What one request takes from the pass."""

    fetched: int  # rows; 0: its state alone
    checked: bool  # whether what comes back is to be filtered


def plan(request: RowRequest, filters: RowFilters, batch: int) -> Plan:
    """Choose for one request of a batch of so many."""
    if request.allowed is not None:
        return Plan(0, False)
    if request.categories is None:
        return Plan(request.k, False)
    items = max(1, filters.items)
    passing = filters.categories.count(request.categories)
    most_gathered = items * max(1 / (GATHER_COSTS * batch), LEAST_SHARED)
    fetched = int(SURPLUS * request.k * items / max(1, passing)) + MARGIN
    if passing <= most_gathered or fetched > MOST_FETCHED:
        return Plan(0, False)
    return Plan(fetched, True)
