"""When the next request to a host may go out. Knows a clock, no network."""

import threading
import time
from collections import Counter
from typing import Protocol


class Clock(Protocol):
    """Seconds that only grow, and waiting for them."""

    def now_s(self) -> float:
        """Return the time."""
        ...

    def wait_s(self, seconds: float, stop: threading.Event) -> None:
        """Return after so many seconds, or as soon as `stop` is set."""
        ...


class WallClock:
    """The machine's clock."""

    def now_s(self) -> float:
        """Return seconds since some moment."""
        return time.monotonic()

    def wait_s(self, seconds: float, stop: threading.Event) -> None:
        """Wait for the time or the event."""
        stop.wait(seconds)


class StoppedError(Exception):
    """The work was called off."""


class Pace:
    """One limit of requests a second for each host; shared by all threads."""

    def __init__(self, requests_per_s: float, clock: Clock) -> None:
        self.gap_s = 1.0 / requests_per_s
        self.clock = clock
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._free_at_s: dict[str, float] = {}
        self._failures: Counter[str] = Counter()
        self._closed: set[str] = set()

    def wait_turn(self, host: str) -> None:
        """Return when a request may go to the host, as if sent; `StoppedError` if called off."""
        while (delay_s := self._take_or_wait_s(host)) > 0:
            self.wait(delay_s)

    def hold(self, host: str, seconds: float) -> None:
        """Send the host nothing for so long."""
        with self._lock:
            free_at_s = self.clock.now_s() + seconds
            self._free_at_s[host] = max(self._free_at_s.get(host, free_at_s), free_at_s)

    def wait(self, seconds: float) -> None:
        """Wait; `StoppedError` if the work is called off meanwhile."""
        self.clock.wait_s(seconds, self.stop)
        if self.stop.is_set():
            raise StoppedError

    def close(self, host: str) -> None:
        """Ask the host no more."""
        with self._lock:
            self._closed.add(host)

    def is_closed(self, host: str) -> bool:
        """Say whether the host is asked no more."""
        return host in self._closed

    def succeeded(self, host: str) -> None:
        """Forget the host's failures."""
        with self._lock:
            self._failures[host] = 0

    def failed(self, host: str, limit: int) -> None:
        """Count a download that failed for good; at `limit` in a row the host is closed."""
        with self._lock:
            self._failures[host] += 1
            if self._failures[host] >= limit:
                self._closed.add(host)

    def _take_or_wait_s(self, host: str) -> float:
        with self._lock:
            now_s = self.clock.now_s()
            free_at_s = self._free_at_s.get(host, now_s)
            if free_at_s <= now_s:
                self._free_at_s[host] = now_s + self.gap_s
            return max(0.0, free_at_s - now_s)
