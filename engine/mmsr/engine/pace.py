"""Work beside requests: in pieces, with rests between. Knows nothing of the work.

A thread that computes in Python holds the interpreter, which the event loop needs for every
request. What is done in pieces of a millisecond delays a request by one piece at most.
"""

import time
from collections.abc import Callable

Rest = Callable[[], None]  # called between two pieces of work
LONGEST_REST_S = 0.2  # after a piece that took long, as computations over large tables do


def no_rest() -> None:
    """Go on at once: there is nobody to make room for."""


class Pace:
    """Rests after each piece, so that work takes `share` of the time."""

    def __init__(
        self,
        share: float,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rest_share = 1 / share - 1
        self._clock = clock
        self._sleep = sleep
        self._began = clock()

    def rest(self) -> None:
        """Rest for what has been done since the last rest."""
        worked_s = self._clock() - self._began
        self._sleep(min(LONGEST_REST_S, worked_s * self._rest_share))
        self._began = self._clock()
