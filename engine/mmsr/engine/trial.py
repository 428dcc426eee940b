"""A canary on trial: counts what its users and the shadow get, and ends the trial at a limit.

A meter among the server's: it is told of each call when that has ended. What a breach does beyond
this server is `withdrawal`'s. Everything runs on the event loop's thread.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from mmsr.bundle.repository import LabelMove
from mmsr.engine.deployment import utc_now
from mmsr.engine.errors import CallerLeft, DeadlineTooShort, Overloaded, RateExceeded, RunnerFailed
from mmsr.engine.rpc import Call, Outcome
from mmsr.engine.serving import Serving
from mmsr.engine.shadow import Comparison, Shadow
from mmsr.engine.split import CanaryConfig
from mmsr.engine.trial_window import Breach, Window
from mmsr.engine.wire import SERVICE_NAME

log = logging.getLogger(__name__)

RECOMMEND = f"{SERVICE_NAME}/Recommend"
BATCH = f"{SERVICE_NAME}/RecommendBatch"
# A stream's errors do not say whose they are, so streams are not judged.
JUDGED = {RECOMMEND, BATCH, f"{SERVICE_NAME}/Score", f"{SERVICE_NAME}/Explain"}
# Of a request that might have been answered: not the caller's fault, and not a server that stops.
FAULTS = {RunnerFailed.code, DeadlineTooShort.code, Overloaded.code}
SLACK_S = 0.005  # by which a caller's clock may say earlier that its deadline has come
LIMITS = ("errors", "p99", "overlap")

NO_BUNDLE, SAME_BUNDLE, TRYING, ROLLED_BACK = "no bundle", "same bundle", "trying", "rolled back"


@dataclass(frozen=True, kw_only=True)
class RolledBack:
    """How the last trial ended."""

    at: str  # ISO 8601, UTC
    reason: str


@dataclass(kw_only=True)
class Tally:
    """What was counted since the present candidate is on trial."""

    requests: int = 0  # of its users, with errors of the server's
    errors: int = 0
    compared: int = 0  # of the shadow's
    failed: int = 0
    overlaps: float = 0.0  # their sum
    rank_biased: float = 0.0

    @property
    def overlap(self) -> float:
        """The mean; 0 where nothing was compared."""
        return self.overlaps / self.compared if self.compared else 0.0

    @property
    def rank_biased_overlap(self) -> float:
        """The mean; 0 where nothing was compared."""
        return self.rank_biased / self.compared if self.compared else 0.0


class Trial:
    """The trial of whatever the canary's label names, one bundle after the other."""

    reads_metadata = False

    def __init__(
        self,
        config: CanaryConfig,
        serving: Serving,
        clock: Callable[[], float],
        shadow: Shadow | None = None,
    ) -> None:
        assert config.label is not None, "without a label there is no trial"
        self.label = config.label
        self.config = config
        self.serving = serving
        self.shadow = shadow or Shadow(config, serving, clock)
        self.tally = Tally()
        self.rollbacks = Counter(dict.fromkeys(LIMITS, 0))  # by the limit
        self.last_rollback: RolledBack | None = None  # of what the label names now
        self.on_breach: Callable[[str, str], None] = lambda version, reason: None
        self._clock = clock
        self._users = Window(config, clock, "requests")
        self._shadows = Window(config, clock, "shadow requests")
        self._pair: tuple[str | None, str | None] = (None, None)  # versions: canary, default
        self._since = clock()
        self.shadow.compared = self._compared
        self.shadow.failed = self._shadow_failed
        serving.listeners.append(self._moved)

    @classmethod
    def of(
        cls, config: CanaryConfig, serving: Serving, clock: Callable[[], float]
    ) -> "Trial | None":
        """Return the trial that the settings want; None without a label."""
        return None if config.label is None else cls(config, serving, clock)

    @property
    def state(self) -> str:
        """How it stands, in words."""
        if self.serving.candidate is not None:
            return TRYING
        deployment = self.serving.deployments.get(self.label)
        if deployment is None:
            return NO_BUNDLE
        withdrawn = self.serving.is_withdrawn(deployment.model.version)
        return ROLLED_BACK if withdrawn else SAME_BUNDLE

    def follow(self, label: str, move: LabelMove) -> None:
        """Take notice of where a label is in the repository.

        What a server has moved is no candidate: here too the trial ends, before the label is
        followed. What anybody else has moved is one, rolled back before or not.
        """
        if label != self.label:
            return
        if move.reason is None:
            self.serving.allow(label, move.bundle_id)
            return
        candidate = self.serving.candidate
        if candidate is not None:
            self.serving.withdraw(candidate.model.version)
        self.serving.withdraw(move.bundle_id)
        if self.last_rollback is None or self.last_rollback.reason != move.reason:
            log.warning(
                "%s was rolled back to %s by a server: %s", label, move.bundle_id, move.reason
            )
        self.last_rollback = RolledBack(at=move.since, reason=move.reason)

    def began(self, method: str) -> None:
        """Count nothing yet."""

    def streamed(self, call: Call, request: Message | None, response: Message) -> None:
        """Count nothing."""

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Count a call, if it was the canary's; show it to the shadow if it was the default's."""
        version, default = self._pair
        if version is None or call.method not in JUDGED or outcome.request is None:
            return
        request: Any = outcome.request
        response: Any = outcome.response
        if call.method == BATCH:
            self._read_batch(request, response)
        elif outcome.error is not None:
            self._read_error(call, outcome)
        elif response.model_version == version:
            self.tally.requests += 1
            self._users.answered(outcome.seconds if call.method == RECOMMEND else None)
            self._judge(self._users)
        elif call.method == RECOMMEND and response.model_version == default:
            self.shadow.offer(request, response)

    def _read_error(self, call: Call, outcome: Outcome) -> None:
        code = fault_of(call, outcome)
        if code is None or call.arrived < self._since or not self._is_ours(outcome.request):
            return
        waited = isinstance(outcome.error, CallerLeft) and call.method == RECOMMEND
        self._failed(code, outcome.seconds if waited else None)

    def _read_batch(self, request: Any, response: Any) -> None:
        """Count each request of a batch by itself; a batch that failed as a whole says nothing."""
        for asked, result in zip(
            request.requests, response.results if response else (), strict=False
        ):
            if self._pair[0] is None:  # rolled back by one of these
                return
            if not result.HasField("response"):
                if result.error.code in FAULTS and self._is_ours(asked):
                    self._failed(result.error.code, None)
            elif result.response.model_version == self._pair[0]:
                self.tally.requests += 1
                self._users.answered()
                self._judge(self._users)

    def _is_ours(self, request: Any) -> bool:
        return self.serving.chosen(request.label, request.user_key) == self.label

    def _failed(self, code: str, seconds: float | None) -> None:
        self.tally.requests += 1
        self.tally.errors += 1
        self._users.failed(code, seconds)
        self._judge(self._users)

    def _compared(self, found: Comparison) -> None:
        self.tally.compared += 1
        self.tally.overlaps += found.overlap
        self.tally.rank_biased += found.rank_biased
        self._shadows.answered(found.seconds)
        self._shadows.compared(found.overlap, found.rank_biased)
        self._judge(self._shadows)

    def _shadow_failed(self, code: str) -> None:
        self.tally.failed += 1
        self._shadows.failed(code)
        self._judge(self._shadows)

    def _judge(self, window: Window) -> None:
        breach = window.breach()
        if breach is not None:
            self._stop(breach)

    def _stop(self, breach: Breach) -> None:
        """End the trial here at once, then let the others know."""
        version = self._pair[0]
        assert version is not None
        self.rollbacks[breach.limit] += 1
        reason = f"{version} was rolled back: {breach.text}"
        log.warning("canary %s", reason)
        self.serving.withdraw(version)
        self.last_rollback = RolledBack(at=utc_now(), reason=reason)
        self.on_breach(version, reason)

    def _moved(self) -> None:
        """Begin anew where the candidate or what it is compared with is another one."""
        candidate = self.serving.candidate
        default = self.serving.deployments.get(self.serving.default_label)
        pair = (
            None if candidate is None else candidate.model.version,
            None if default is None else default.model.version,
        )
        if pair == self._pair:
            return
        if pair[0] is not None:
            if pair[0] != self._pair[0]:
                self.tally = Tally()
                self.last_rollback = None
            log.info("canary %s is on trial beside %s", *pair)
        self._pair = pair
        self._since = self._clock()
        self._users.clear()
        self._shadows.clear()


def fault_of(call: Call, outcome: Outcome) -> str | None:
    """Return the status of a call that failed by the server's fault; None: the caller's own."""
    error = outcome.error
    if isinstance(error, CallerLeft):
        # gRPC ends the call when the deadline comes: an answer that is too late looks like this.
        came = call.deadline is not None and (
            call.arrived + outcome.seconds >= call.deadline - SLACK_S
        )
        return DeadlineTooShort.code if came else None
    if error is None or isinstance(error, RateExceeded):
        return None
    return error.code if error.code in FAULTS else None
