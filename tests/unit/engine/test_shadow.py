"""Which answers are put to a canary too, when, and what is made of the outcome."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from support.loads import deployment
from support.virtual_time import Clock, run_virtually

from mmsr.engine.errors import DeadlineTooShort, EngineError, Overloaded, RunnerFailed
from mmsr.engine.lanes import Waiting
from mmsr.engine.query import Query, Reply
from mmsr.engine.service import Begun
from mmsr.engine.serving import Serving
from mmsr.engine.shadow import DEADLINE_S, Comparison, Shadow
from mmsr.engine.split import CanaryConfig
from mmsr.v1 import recommender_pb2 as pb

CONFIG = CanaryConfig(label="canary", percent=0, shadow_percent=50, shadow_in_flight=2)
REQUEST = pb.RecommendRequest(history=["i"], k=4, excluded_ids=["x"])
ANSWER = pb.RecommendResponse(item_ids=["a", "b", "c", "d"], queue_us=1_000, compute_us=2_000)


class Queue:
    """A batcher of which only the depth is asked."""

    depth = 0


class Asked:
    """A canary's service that answers when told."""

    def __init__(self) -> None:
        self.queries: list[tuple[Query, float | None, bool]] = []
        self.futures: list[asyncio.Future[Any]] = []
        self.refusal: EngineError | None = None
        self.reply = Reply(["a", "b", "x", "y"], [4, 3, 2, 1], 0, False, 4_000, 10_000, 1)

    def begin(self, query: Query, deadline: float | None, *, bulk: bool) -> Begun:
        self.queries.append((query, deadline, bulk))
        if self.refusal is not None:
            raise self.refusal
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        job: Any = None
        return Begun(query, [], 0, False, Waiting(job, 1, deadline, future))

    def finish(self, begun: Begun) -> Reply:
        assert begun.ticket is not None
        begun.ticket.future.result()
        return self.reply


class House:
    """A shadow before a default label and a canary."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.serving = Serving("stable", CONFIG.split)
        self.queues = {"stable": Queue(), "canary": Queue()}
        self.asked = Asked()
        service: Any = self.asked
        for label, queue in self.queues.items():
            batcher: Any = queue
            self.serving.use(label, replace(deployment(label), batcher=batcher, service=service))
        self.drawn = 0.0
        self.shadow = Shadow(CONFIG, self.serving, clock, lambda: self.drawn)
        self.compared: list[Comparison] = []
        self.failed: list[str] = []
        self.shadow.compared = self.compared.append
        self.shadow.failed = self.failed.append

    async def offer(self, answer: pb.RecommendResponse = ANSWER) -> None:
        """Show an answer, and let the loop turn once."""
        self.shadow.offer(REQUEST, answer)
        await asyncio.sleep(0)

    async def end(self, error: EngineError | None = None) -> None:
        """Let the canary answer the oldest request."""
        future = self.asked.futures.pop(0)
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
        await asyncio.sleep(0)

    @property
    def results(self) -> dict[tuple[str, str], int]:
        return dict(self.shadow.results)


Main = Callable[[House], Coroutine[Any, Any, None]]


def in_a_house(main: Main) -> None:
    clock = Clock()

    async def inside() -> None:
        await main(House(clock))

    run_virtually(clock, inside())


def test_an_answer_is_compared_with_the_canarys_once_it_is_sent() -> None:
    async def main(house: House) -> None:
        house.clock.now = 7.0
        house.shadow.offer(REQUEST, ANSWER)
        assert house.asked.queries == []  # the answer goes first
        await asyncio.sleep(0)
        [(query, deadline, bulk)] = house.asked.queries
        assert (list(query.history), query.k, list(query.excluded_ids)) == (["i"], 4, ["x"])
        assert (deadline, bulk) == (7.0 + DEADLINE_S, True)
        assert house.shadow.in_flight == 1
        await house.end()
        [found] = house.compared
        assert (found.overlap, found.seconds, found.default_seconds) == (0.5, 0.014, 0.003)
        assert 0.5 < found.rank_biased < 1.0
        assert house.results == {("compared", ""): 1}
        assert house.shadow.in_flight == 0
        assert sum(house.shadow.overlaps.counts) == 1

    in_a_house(main)


def test_a_share_of_the_answers_is_asked_for() -> None:
    async def main(house: House) -> None:
        for house.drawn in (0.49, 0.5, 0.99):
            await house.offer()
        assert len(house.asked.queries) == 1

    in_a_house(main)


@pytest.mark.parametrize(
    "answer",
    [
        pb.RecommendResponse(item_ids=["a"], fallback=pb.FALLBACK_POPULARITY),
        pb.RecommendResponse(),
    ],
)
def test_answers_that_no_model_gave_are_not_compared(answer: pb.RecommendResponse) -> None:
    async def main(house: House) -> None:
        await house.offer(answer)
        assert (house.asked.queries, house.results) == ([], {})

    in_a_house(main)


def test_no_more_than_a_few_are_under_way() -> None:
    async def main(house: House) -> None:
        for _ in range(5):
            await house.offer()
        assert len(house.asked.queries) == house.shadow.in_flight == 2
        assert house.results == {("dropped", "in flight"): 3}

    in_a_house(main)


def test_nothing_is_put_to_the_canary_while_others_wait() -> None:
    async def main(house: House) -> None:
        house.queues["stable"].depth = 1
        await house.offer()
        assert house.asked.queries == []
        assert house.results == {("dropped", "queue"): 1}
        house.queues["stable"].depth = 0
        house.queues["canary"].depth = 3  # its own go first anyway
        await house.offer()
        assert len(house.asked.queries) == 1

    in_a_house(main)


def test_after_a_computation_the_thread_is_left_to_others() -> None:
    """10 ms of it, and a quarter of the time is the shadow's: 30 ms without it."""

    async def main(house: House) -> None:
        await house.offer()
        await house.end()
        house.clock.now = 0.029
        await house.offer()
        assert house.results == {("compared", ""): 1, ("dropped", "share"): 1}
        house.clock.now = 0.0301
        await house.offer()
        assert len(house.asked.queries) == 2

    in_a_house(main)


@pytest.mark.parametrize(
    ("error", "result", "told"),
    [
        (RunnerFailed("it failed"), ("failed", "RunnerFailed"), ["INTERNAL"]),
        (DeadlineTooShort("it waited"), ("dropped", "queue"), []),
    ],
)
def test_a_computation_that_fails_is_told_and_one_that_waited_is_not(
    error: EngineError, result: tuple[str, str], told: list[str]
) -> None:
    async def main(house: House) -> None:
        await house.offer()
        await house.end(error)
        assert (house.results, house.failed, house.compared) == ({result: 1}, told, [])
        assert house.shadow.in_flight == 0

    in_a_house(main)


def test_a_queue_that_refuses_is_no_fault_of_the_canary() -> None:
    async def main(house: House) -> None:
        house.asked.refusal = Overloaded("the queue is full", 3)
        await house.offer()
        assert (house.results, house.failed) == ({("dropped", "queue"): 1}, [])
        assert house.shadow.in_flight == 0

    in_a_house(main)


def test_an_outcome_of_a_bundle_that_is_no_candidate_any_more_counts_for_nobody() -> None:
    async def main(house: House) -> None:
        await house.offer()
        house.shadow.offer(REQUEST, ANSWER)
        house.serving.withdraw("canary")
        await asyncio.sleep(0)
        assert len(house.asked.queries) == 1
        await house.end()
        assert (house.results, house.compared) == ({("dropped", "moved"): 2}, [])
        await house.offer()
        assert (len(house.asked.queries), house.shadow.in_flight) == (1, 0)

    in_a_house(main)
