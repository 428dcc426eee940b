"""Which row of the tables holds which item, while rows change hands.

Outside of the thread that computes, an item goes by a number that stays its own as long as the
model is loaded; there it is its row. At first they are the same. A changed item moves to another
row and keeps its number; the number of a removed item leads to row 0 and is never given again. So a
request may wait as long as it likes: no row that it speaks of has meanwhile become another item's.
"""

import threading
from collections.abc import Sequence

from mmsr.engine.rows import RowAnswer, RowRequest

NOWHERE = 0  # the padding: never eligible, and in a history an item of which nothing is known


class Placement:
    """Numbers to rows and back.

    The thread that computes changes it, between batches and holding `lock`; whoever reads rows
    elsewhere holds it too.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._row_of: dict[int, int] = {}  # of numbers that are not their row
        self._number_of: dict[int, int] = {}  # of rows that are not their number

    def row(self, number: int) -> int:
        """Return where an item stands; `NOWHERE` if it was removed."""
        return self._row_of.get(number, number)

    def rows(self, numbers: Sequence[int]) -> Sequence[int]:
        """Return where items stand, in the order given."""
        moved = self._row_of
        if not moved or moved.keys().isdisjoint(numbers):
            return numbers
        return [moved.get(number, number) for number in numbers]

    def numbers(self, rows: Sequence[int]) -> Sequence[int]:
        """Return which items stand in rows that hold one."""
        moved = self._number_of
        if not moved or moved.keys().isdisjoint(rows):
            return rows
        return [moved.get(row, row) for row in rows]

    def place(self, number: int, row: int) -> None:
        """Let an item stand in a row from now on."""
        _note(self._row_of, number, row)
        _note(self._number_of, row, number)

    def remove(self, number: int) -> None:
        """Let an item stand nowhere."""
        self._row_of[number] = NOWHERE

    def placed(self, requests: Sequence[RowRequest]) -> Sequence[RowRequest]:
        """Return requests that speak of numbers as requests that speak of rows."""
        return [self._placed(request) for request in requests] if self._row_of else requests

    def named(self, answers: Sequence[RowAnswer]) -> list[RowAnswer]:
        """Return answers that speak of rows as answers that speak of numbers."""
        return [RowAnswer(list(self.numbers(rows)), scores) for rows, scores in answers]

    def _placed(self, request: RowRequest) -> RowRequest:
        allowed = request.allowed
        return request._replace(
            history=list(self.rows(request.history)),
            excluded=list(self.rows(request.excluded)),
            allowed=None if allowed is None else self.rows(allowed),
        )


def _note(moved: dict[int, int], key: int, value: int) -> None:
    if key == value:
        moved.pop(key, None)
    else:
        moved[key] = value
