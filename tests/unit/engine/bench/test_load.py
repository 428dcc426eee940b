"""The two loops, against a fake caller."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable

import numpy as np
import pytest

from mmsr.engine.bench.arrivals import poisson_arrivals_s
from mmsr.engine.bench.load import Measured, measure
from mmsr.engine.bench.plan import RunPlan, Window
from mmsr.engine.bench.samples import NO_ANSWER, OK, UNFINISHED, UNSENT, Answer

WINDOW = Window(warm_up_s=0.0, duration_s=0.3)


class InstantCaller:
    """Answers after one turn of the loop, unless it is told to hang or to fail."""

    def __init__(self, *, hang: bool = False, fail_every: int = 0) -> None:
        self.sent: list[bytes] = []
        self.under_way = 0
        self.most_under_way = 0
        self.third_sent = asyncio.Event()
        self.hang = hang
        self.fail_every = fail_every

    def begin(self, request: bytes) -> Awaitable[bytes]:
        self.sent.append(request)
        if len(self.sent) == 3:
            self.third_sent.set()
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if not self.hang:
            asyncio.get_running_loop().call_soon(reply.set_result, b"%d" % len(self.sent))
        return reply

    async def finish(self, reply: Awaitable[bytes]) -> tuple[int, Answer]:
        number = int(await reply)
        self.under_way -= 1
        if self.fail_every and number % self.fail_every == 0:
            return 8, NO_ANSWER
        return OK, Answer(1, 2, 3, 0)


def measure_with(caller: InstantCaller, plan: RunPlan, requests: list[bytes]) -> Measured:
    async def main() -> Measured:
        return await measure(plan, caller, requests, asyncio.Event())

    return asyncio.run(main())


@pytest.mark.parametrize("concurrency", [1, 7])
def test_the_closed_loop_keeps_exactly_so_many_under_way(concurrency: int) -> None:
    caller = InstantCaller()
    measured = measure_with(caller, RunPlan(concurrency=concurrency, window=WINDOW), [b"r"])
    assert caller.most_under_way == concurrency
    assert caller.under_way == 0
    assert len(measured.samples) == len(caller.sent)
    assert measured.sent_for_s == pytest.approx(WINDOW.duration_s)


def test_the_open_loop_sends_every_arrival_at_its_time() -> None:
    plan = RunPlan(rate_per_s=300, window=Window(warm_up_s=0.1, duration_s=0.3, seed=5))
    samples = measure_with(InstantCaller(), plan, [b"r"]).samples
    expected_s = poisson_arrivals_s(300, 0.4, seed=5)
    assert np.sort(samples.intended_s_R) == pytest.approx(expected_s, abs=1e-6)
    assert (samples.sent_s_R >= samples.intended_s_R).all()
    assert (samples.done_s_R >= samples.sent_s_R).all()


def test_requests_are_sent_in_turn() -> None:
    caller = InstantCaller()
    measure_with(caller, RunPlan(concurrency=1, window=WINDOW), [b"a", b"b", b"c"])
    assert caller.sent[:7] == [b"a", b"b", b"c", b"a", b"b", b"c", b"a"]


def test_failures_are_recorded_with_their_status() -> None:
    caller = InstantCaller(fail_every=4)
    samples = measure_with(caller, RunPlan(concurrency=1, window=WINDOW), [b"r"]).samples
    counts = Counter(samples.status_R.tolist())
    assert counts == {OK: len(samples) - len(samples) // 4, 8: len(samples) // 4}
    assert (samples.batch_size_R[samples.status_R == OK] == 3).all()
    assert (samples.batch_size_R[samples.status_R == 8] == 0).all()


@pytest.mark.parametrize("load", [{"concurrency": 3}, {"rate_per_s": 200.0}])
def test_an_interrupt_ends_the_run_and_keeps_what_was_measured(load: dict[str, float]) -> None:
    plan = RunPlan(**load, window=Window(warm_up_s=0, duration_s=3600))  # type: ignore[arg-type]
    caller = InstantCaller(hang=True)

    async def main() -> Measured:
        stop = asyncio.Event()
        running = asyncio.create_task(measure(plan, caller, [b"r"], stop))
        await asyncio.wait_for(caller.third_sent.wait(), 20)
        stop.set()
        return await running

    measured = asyncio.run(main())
    assert measured.interrupted
    assert measured.sent_for_s < 60
    assert measured.samples.status_R.tolist() == [UNFINISHED] * len(caller.sent)


class SlowCaller(InstantCaller):
    """Takes 5 ms of the generator's own time to send."""

    def begin(self, request: bytes) -> Awaitable[bytes]:
        end_s = time.perf_counter() + 0.005
        while time.perf_counter() < end_s:
            pass
        return super().begin(request)


def test_a_generator_that_cannot_keep_up_gives_up_and_says_so() -> None:
    plan = RunPlan(rate_per_s=1000, window=Window(warm_up_s=0, duration_s=0.2))
    caller = SlowCaller()
    samples = measure_with(caller, plan, [b"r"]).samples
    assert len(samples) == len(poisson_arrivals_s(1000, 0.2, seed=0))
    unsent = np.count_nonzero(samples.status_R == UNSENT)
    assert unsent == len(samples) - len(caller.sent) > 50
