"""How often a client may ask: one bucket a client that fills at its rate. Owns no clock."""

import math
from typing import NamedTuple

from mmsr.engine.errors import ConfigError, RateExceeded

LEAST_RETRY_MS = 1


class Rate(NamedTuple):
    """So many requests a second in the long run, and so many at once after a pause."""

    requests_per_s: float
    burst: float  # requests

    def check(self, where: str) -> None:
        """Raise `ConfigError` unless both are numbers that let a request through."""
        for name, value, least in (
            ("requests_per_s", self.requests_per_s, 0.001),
            ("burst", self.burst, 1),
        ):
            if not (least <= value < math.inf):  # also refuses NaN
                raise ConfigError(f"{where}: {name} {value}; expected at least {least:g}")


class Bucket:
    """What a client may still ask now."""

    __slots__ = ("_at", "_left", "rate")

    def __init__(self, rate: Rate, now: float) -> None:
        self.rate = rate
        self._left = rate.burst
        self._at = now

    def take(self, now: float) -> float:
        """Take one request out and return 0; or the seconds until there is one, taking none."""
        self._fill(now)
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self.rate.requests_per_s

    def owe(self, now: float, requests: int) -> None:
        """Take requests out that are answered in any case; what is missing delays the next ones."""
        self._fill(now)
        self._left -= requests

    def _fill(self, now: float) -> None:
        filled = self._left + (now - self._at) * self.rate.requests_per_s
        self._left = min(self.rate.burst, filled)
        self._at = now


class ClientLimits:
    """The buckets of all clients; `default` holds for those without a rate of their own."""

    def __init__(self, default: Rate | None) -> None:
        self._default = default
        self._buckets: dict[str, Bucket] = {}

    def take(self, client: str, own: Rate | None, now: float) -> None:
        """Count one request; `RateExceeded` says when the next one may come."""
        rate = own or self._default
        if rate is None:
            return
        bucket = self._buckets.get(client)
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[client] = Bucket(rate, now)
        wait_s = bucket.take(now)
        if wait_s:
            retry_ms = max(LEAST_RETRY_MS, math.ceil(1e3 * wait_s))
            raise RateExceeded(
                f"client {client!r} exceeds its {rate.requests_per_s:g} requests/s "
                f"(burst {rate.burst:g}); retry in {retry_ms} ms",
                retry_ms,
            )

    def owe(self, client: str, requests: int, now: float) -> None:
        """Count requests that came in one message beside the first."""
        bucket = self._buckets.get(client)
        if bucket is not None:
            bucket.owe(now, requests)
