"""The log line of a call. It never says what a user asked or got."""

import logging
import time
from typing import Any

from google.protobuf.message import Message

from mmsr.engine.errors import Bug, EngineError, RunnerFailed
from mmsr.engine.rpc import Call, Outcome, described, is_loggable

LINES_PER_S = 10.0  # of failed calls: an overload must not become one of the disk
LINES_AT_ONCE = 100.0
log = logging.getLogger(__name__)


class CallLog:
    """The meter that logs calls: those that failed, and all if `every`."""

    reads_metadata = False

    def __init__(self, every: bool = False) -> None:
        self._every = every
        self.reads_metadata = every
        self._left = LINES_AT_ONCE
        self._at = time.monotonic()
        self._suppressed = 0

    def began(self, method: str) -> None:
        """Log nothing."""

    def streamed(self, call: Call, request: Message | None, response: Message) -> None:
        """Log nothing."""

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Log the call if it is to be.

        Not the error's text, which may quote ids of the request; a bug was logged where it was met.
        """
        error = outcome.error
        if self._every:
            log.info("call", extra={"fields": call_fields(call, outcome)})
        elif error is not None and not isinstance(error, Bug) and self._may():
            fields = call_fields(call, outcome)
            if self._suppressed:
                fields["lines_left_out"] = self._suppressed
                self._suppressed = 0
            level = logging.ERROR if isinstance(error, RunnerFailed) else logging.WARNING
            log.log(level, "call failed", extra={"fields": fields})

    def _may(self) -> bool:
        now = time.monotonic()
        self._left = min(LINES_AT_ONCE, self._left + (now - self._at) * LINES_PER_S)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return True
        self._suppressed += 1
        return False


def call_fields(call: Call, outcome: Outcome) -> dict[str, Any]:
    """Return what a line says of a call that has ended."""
    fields: dict[str, Any] = {**described(call, call.metadata), "code": outcome.code}
    if outcome.error is not None:
        fields["cause"] = cause_of(outcome.error)
    label = getattr(outcome.request, "label", "")
    if label and is_loggable(label):
        fields["label"] = label
    fields["ms"] = round(1e3 * outcome.seconds, 3)
    return fields


def cause_of(error: EngineError) -> str:
    """Return why a call failed, in one word."""
    return type(error).__name__
