"""Puts what the default label has answered to the canary too, and compares. Nobody waits for it.

Its computations take turns with those of all labels in one thread. So they are few at a time, none
begins where somebody's request waits, and after each the thread is left to others for a while.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from mmsr.engine.call_stats import SECONDS, Histogram
from mmsr.engine.deployment import Deployment
from mmsr.engine.errors import DeadlineTooShort, EngineError, Overloaded, Unavailable
from mmsr.engine.rankings import overlap, rank_biased_overlap
from mmsr.engine.service import Begun, Service
from mmsr.engine.serving import Serving
from mmsr.engine.split import CanaryConfig
from mmsr.engine.translate import query_of
from mmsr.v1 import recommender_pb2 as pb

DEADLINE_S = 1.0  # to begin: who waits longer is in the way
SHARES = tuple(place / 10 for place in range(11))  # bounds of overlaps, which are few where k is

COMPARED, DROPPED, FAILED = "compared", "dropped", "failed"


class Pair(NamedTuple):
    """What was asked and answered, and by whom it is answered again."""

    request: pb.RecommendRequest
    response: pb.RecommendResponse
    version: str  # of the canary


class Comparison(NamedTuple):
    """The answers of both, side by side."""

    overlap: float
    rank_biased: float
    seconds: float  # the canary's, from being put to it
    default_seconds: float  # the other's, from its arrival in the queue


class Shadow:
    """Asks the canary for a share of the default label's answers.

    `compared` and `failed` are told of each outcome that says something of the canary.
    """

    def __init__(
        self,
        config: CanaryConfig,
        serving: Serving,
        clock: Callable[[], float],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._serving = serving
        self._clock = clock
        self._draw = draw
        self._share = config.shadow_percent / 100
        self._most = config.shadow_in_flight
        self._rest = 1 / config.shadow_share - 1  # seconds of rest a second of computing
        self._rests_until = -float("inf")
        self.in_flight = 0
        self.results: Counter[tuple[str, str]] = Counter()  # by what came of it, and the cause
        self.overlaps = Histogram(SHARES)
        self.rank_biased = Histogram(SHARES)
        self.seconds = Histogram(SECONDS)  # of what was compared: the canary's
        self.default_seconds = Histogram(SECONDS)  # and the default label's
        self.compared: Callable[[Comparison], None] = lambda comparison: None
        self.failed: Callable[[str], None] = lambda code: None

    def offer(self, request: pb.RecommendRequest, response: pb.RecommendResponse) -> None:
        """Take notice of an answer of the default label, which is being sent.

        What was answered by popularity or with nothing says nothing of a model.
        """
        candidate = self._serving.candidate
        if candidate is None or not self._share or self._draw() >= self._share:
            return
        if response.fallback or not response.item_ids:
            return
        if self.in_flight >= self._most:
            self.results[DROPPED, "in flight"] += 1
        elif self._clock() < self._rests_until:
            self.results[DROPPED, "share"] += 1
        else:
            self.in_flight += 1
            # Not now: the call that was answered has yet to hand its answer to gRPC.
            pair = Pair(request, response, candidate.model.version)
            asyncio.get_running_loop().call_soon(self._ask, pair)

    def _ask(self, pair: Pair) -> None:
        candidate = self._serving.candidate
        if candidate is None or candidate.model.version != pair.version:
            self._end(DROPPED, "moved")
        elif self._somebody_waits(candidate):
            self._end(DROPPED, "queue")
        else:
            self._begin(pair, candidate.service)

    def _begin(self, pair: Pair, service: Service) -> None:
        try:
            begun = service.begin(query_of(pair.request), self._clock() + DEADLINE_S, bulk=True)
        except EngineError as error:
            self._end_with(error)
            return
        done = partial(self._done, pair, service, begun)
        if begun.ticket is None:
            done()
        else:
            begun.ticket.future.add_done_callback(lambda future: done())

    def _somebody_waits(self, candidate: Deployment) -> bool:
        """Tell whether requests wait under any other label; under its own they go first."""
        others = self._serving.deployments.values()
        return any(other.batcher.depth for other in others if other is not candidate)

    def _done(self, pair: Pair, service: Service, begun: Begun) -> None:
        if begun.ticket is not None:
            if begun.ticket.future.cancelled():
                self._end(DROPPED, "moved")
                return
            # Asked for, not raised: its traceback and the future would hold the model in a circle.
            error = begun.ticket.future.exception()
            if isinstance(error, EngineError):
                self._end_with(error)
                return
        reply = service.finish(begun)
        seconds = reply.compute_us / 1e6
        self._rests_until = max(self._rests_until, self._clock() + seconds * self._rest)
        candidate = self._serving.candidate
        if candidate is None or candidate.model.version != pair.version:
            self._end(DROPPED, "moved")
            return
        self._end(COMPARED, "")
        answer = pair.response
        self._add(
            Comparison(
                overlap(answer.item_ids, reply.item_ids),
                rank_biased_overlap(answer.item_ids, reply.item_ids),
                (reply.queue_us + reply.compute_us) / 1e6,
                (answer.queue_us + answer.compute_us) / 1e6,
            )
        )

    def _add(self, found: Comparison) -> None:
        self.overlaps.add(found.overlap)
        self.rank_biased.add(found.rank_biased)
        self.seconds.add(found.seconds)
        self.default_seconds.add(found.default_seconds)
        self.compared(found)

    def _end_with(self, error: EngineError) -> None:
        """Note why there is no answer; a queue that is full or late is not the canary's fault."""
        if isinstance(error, Overloaded | DeadlineTooShort | Unavailable):
            self._end(DROPPED, "queue")
        else:
            self._end(FAILED, type(error).__name__)
            self.failed(error.code)

    def _end(self, result: str, cause: str) -> None:
        self.in_flight -= 1
        self.results[result, cause] += 1
