"""When a failed call is sent again, and when not. Pure: it neither calls nor waits.

Exponential backoff with full jitter (M. Brooker, "Exponential Backoff and Jitter", AWS 2015), and
the budget of gRPC's own retry throttling (gRFC A6).
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from mmsr.engine.errors import ConfigError, EngineError, Overloaded, Unavailable

GROWTH = 2.0  # of the wait, from one try to the next
HINT_SPREAD = 0.25  # clients that were refused together must not come back together


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How often, and how patiently, calls are sent again."""

    tries: int = 4  # of one call, the first included; 1: none is sent again
    first_wait_ms: float = 20.0  # the longest wait before the second try; it doubles with each
    most_wait_ms: float = 1000.0
    # Failures cost one token, successes give `refund` back; below half of it nothing is sent again,
    # so that clients do not keep a server down that many calls fail at.
    budget: float = 10.0
    refund: float = 0.1

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ConfigError(f"tries {self.tries}; expected at least 1")
        for name in ("first_wait_ms", "most_wait_ms", "budget", "refund"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} {getattr(self, name)}; expected at least 0")


class Retrying:
    """The budget of one client; may be shared by threads."""

    def __init__(
        self,
        retries: Retries,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.retries = retries
        self.clock = clock
        self.chance = chance  # 0 to 1
        self._tokens = retries.budget
        self._lock = threading.Lock()

    def begin(self, timeout_s: float) -> "Tries":
        """Begin a call that may take `timeout_s` with all its tries and waits."""
        return Tries(self, self.clock() + timeout_s)

    def failed(self) -> bool:
        """Take a token; return whether there are enough left to try again."""
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1.0)
            return self._tokens > self.retries.budget / 2

    def succeeded(self) -> None:
        """Give a part of a token back."""
        with self._lock:
            self._tokens = min(self.retries.budget, self._tokens + self.retries.refund)


class Tries:
    """One call."""

    def __init__(self, retrying: Retrying, deadline: float) -> None:
        self._retrying = retrying
        self._deadline = deadline
        self._count = 0

    def left_s(self) -> float:
        """Return the time that is left of the call's deadline; at least 0."""
        return max(0.0, self._deadline - self._retrying.clock())

    def succeeded(self) -> None:
        """Note the end."""
        self._retrying.succeeded()

    def wait_s(self, error: EngineError) -> float | None:
        """Return how long to wait before the next try; None: the error is the answer.

        Sent again is what another moment, or another server, may answer: UNAVAILABLE, and
        RESOURCE_EXHAUSTED that says when to come back.
        """
        if not isinstance(error, Unavailable | Overloaded):
            return None
        retries = self._retrying.retries
        self._count += 1
        if not self._retrying.failed() or self._count >= retries.tries:
            return None
        chance = self._retrying.chance()
        if isinstance(error, Overloaded):
            wait_s = error.retry_after_ms / 1e3 * (1.0 + HINT_SPREAD * chance)
        else:
            longest_ms = retries.first_wait_ms * GROWTH ** (self._count - 1)
            wait_s = min(longest_ms, retries.most_wait_ms) / 1e3 * chance
        return wait_s if wait_s < self.left_s() else None
