"""What a canary did of late, and whether that is within the limits. Owns no clock; no gRPC."""

import math
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from mmsr.engine.split import CanaryConfig

SLICES = 12  # the window is forgotten by so many parts
STEP = 1.05  # from one bin of times to the next: a p99 is told to 5 %
LEAST_S = 1e-6


class Breach(NamedTuple):
    """A limit that does not hold."""

    limit: str  # "errors", "p99" or "overlap"
    text: str  # what was measured, and the limit


class _Slice:
    """What happened in a part of the window."""

    __slots__ = (
        *("begins", "requests", "failed", "codes", "timed", "slow", "bins"),
        *("compared", "overlaps", "ranked"),
    )

    def __init__(self, begins: float) -> None:
        self.begins = begins
        self.requests = 0  # the failed ones too
        self.failed = 0
        self.codes: Counter[str] = Counter()  # of the failed ones
        self.timed = 0
        self.slow = 0  # of these
        self.bins: Counter[int] = Counter()  # times, by powers of `STEP`
        self.compared = 0
        self.overlaps = 0.0
        self.ranked = 0.0


class Window:
    """The last `window_s` seconds of one kind of requests: its users', or the shadow's.

    A limit is judged by no fewer than `least_requests`. What is on the limit is within it.
    """

    def __init__(self, config: CanaryConfig, clock: Callable[[], float], what: str) -> None:
        self._config = config
        self._clock = clock
        self._what = what  # the requests in words
        self._slow_s = math.inf if config.max_p99_ms is None else config.max_p99_ms / 1e3
        self._slices: deque[_Slice] = deque()

    def answered(self, seconds: float | None = None) -> None:
        """Count an answer; `seconds`: None where its time is not judged."""
        self._count(seconds)

    def failed(self, code: str, seconds: float | None = None) -> None:
        """Count a request that failed, by its status; `seconds` that it took at least."""
        now = self._count(seconds)
        now.failed += 1
        now.codes[code] += 1

    def compared(self, overlap: float, rank_biased: float) -> None:
        """Count what an answer had in common with the default label's."""
        now = self._now()
        now.compared += 1
        now.overlaps += overlap
        now.ranked += rank_biased

    def clear(self) -> None:
        """Forget everything."""
        self._slices.clear()

    def breach(self) -> Breach | None:
        """Return the first limit that does not hold."""
        self._forget(self._clock())
        return self._errors() or self._p99() or self._overlap()

    def _errors(self) -> Breach | None:
        most = self._config.max_error_percent
        requests = sum(part.requests for part in self._slices)
        if most is None or requests < self._config.least_requests:
            return None
        failed = sum(part.failed for part in self._slices)
        if 100 * failed <= most * requests:
            return None
        codes = sum((part.codes for part in self._slices), Counter[str]())
        named = ", ".join(f"{count} {code}" for code, count in codes.most_common())
        found = f"{100 * failed / requests:.3g} % of {self._of(requests)} failed ({named})"
        return Breach("errors", f"{found}, the limit is {most:g} %")

    def _p99(self) -> Breach | None:
        most = self._config.max_p99_ms
        if most is None:
            return None
        timed = sum(part.timed for part in self._slices)
        slow = sum(part.slow for part in self._slices)
        if timed < self._config.least_requests or slow <= timed // 100:
            return None
        bins = sum((part.bins for part in self._slices), Counter[int]())
        above = timed // 100  # that may be slower than the 99th percentile
        for number in sorted(bins, reverse=True):
            above -= bins[number]
            if above < 0:
                break
        found = f"p99 of {self._of(timed)} is {1e3 * STEP**number:.3g} ms"
        return Breach("p99", f"{found}, the limit is {most:g} ms")

    def _overlap(self) -> Breach | None:
        least = self._config.min_overlap
        compared = sum(part.compared for part in self._slices)
        if least is None or compared < self._config.least_requests:
            return None
        overlap = math.fsum(part.overlaps for part in self._slices) / compared
        if overlap >= least or math.isclose(overlap, least):
            return None
        ranked = math.fsum(part.ranked for part in self._slices) / compared
        found = f"overlap@k of {self._of(compared)} is {overlap:.3g} (rank-biased {ranked:.3g})"
        return Breach("overlap", f"{found}, the limit is {least:g}")

    def _of(self, count: int) -> str:
        return f"{count} {self._what} in {self._config.window_s:g} s"

    def _count(self, seconds: float | None) -> _Slice:
        now = self._now()
        now.requests += 1
        if seconds is not None:
            now.timed += 1
            now.slow += seconds > self._slow_s
            now.bins[math.ceil(math.log(max(seconds, LEAST_S), STEP))] += 1
        return now

    def _now(self) -> _Slice:
        """Return the part of the window that is now."""
        now, slices = self._clock(), self._slices
        if not slices or now - slices[-1].begins >= self._config.window_s / SLICES:
            self._forget(now)
            slices.append(_Slice(now))
        return slices[-1]

    def _forget(self, now: float) -> None:
        while self._slices and now - self._slices[0].begins >= self._config.window_s:
            self._slices.popleft()
