"""The two loops against a real server that stalls, fails, dies or never answers."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace

import numpy as np
import pytest
from support.answering_server import DEADLINE_S, MODEL_VERSION, Behaviour, serve

from mmsr.engine.bench.arrivals import poisson_arrivals_s
from mmsr.engine.bench.latency import quantile
from mmsr.engine.bench.load import Measured, measure
from mmsr.engine.bench.plan import BenchError, RunPlan, Window
from mmsr.engine.bench.samples import OK, Samples
from mmsr.engine.bench.wire import GrpcCaller, Seen, connect
from mmsr.v1 import recommender_pb2

STALL_S = 0.3
STALL_AT = 100  # this request is the first to meet it
RATE_PER_S = 250.0


def measure_server(behaviour: Behaviour, plan: RunPlan) -> tuple[Measured, Seen]:
    request = recommender_pb2.RecommendRequest(history=["item-1"], k=5).SerializeToString()

    async def main() -> tuple[Measured, Seen]:
        async with serve(behaviour) as target, await connect(target) as channel:
            seen = Seen()
            caller = GrpcCaller(channel, plan.window.deadline_ms, seen)
            return await measure(plan, caller, [request], asyncio.Event()), seen

    return asyncio.run(main())


def undisturbed(behaviour: Behaviour, plan: RunPlan) -> Samples:
    """Measure; again if this machine itself paused, which the generator's lag tells."""
    for _ in range(5):
        samples = measure_server(behaviour, plan)[0].samples
        if (samples.sent_s_R - samples.intended_s_R).max() < STALL_S / 10:
            return samples
        behaviour = replace(behaviour, requests=[])
    pytest.fail("this machine pauses too often to measure anything")


def test_the_open_loop_sees_a_stall_as_its_users_would() -> None:
    window = Window(warm_up_s=0.2, duration_s=1.2, seed=1)
    plan = RunPlan(rate_per_s=RATE_PER_S, window=window)
    arrivals_s = poisson_arrivals_s(RATE_PER_S, window.total_s, window.seed)
    samples = undisturbed(Behaviour(stall_at=STALL_AT, stall_s=STALL_S), plan)

    # Who arrives at t while the gate is closed from t0 on waits until t0 + 0.3 s.
    wait_s = np.maximum(0, arrivals_s[STALL_AT - 1] + STALL_S - arrivals_s)
    wait_s[: STALL_AT - 1] = 0
    analytic_s = quantile(wait_s[arrivals_s >= window.warm_up_s], 0.99)
    counted = samples.pick(samples.intended_s_R >= window.warm_up_s)
    p99_s = quantile(counted.done_s_R - counted.intended_s_R, 0.99)
    assert analytic_s > 0.8 * STALL_S  # a quarter of all arrivals fall into the stall
    assert p99_s == pytest.approx(analytic_s, rel=0.15)


def test_the_closed_loop_misses_the_same_stall() -> None:
    for duration_s in (1.0, 4.0, 16.0):  # longer where the machine is slow: p99 needs a count
        plan = RunPlan(concurrency=1, window=Window(warm_up_s=0, duration_s=duration_s))
        behaviour = Behaviour(stall_at=STALL_AT, stall_s=STALL_S)
        samples = measure_server(behaviour, plan)[0].samples
        if len(samples) > 3 * STALL_AT:
            break
    latency_s = samples.done_s_R - samples.intended_s_R
    assert latency_s[STALL_AT - 1] >= STALL_S * 0.9  # the stall was there
    assert quantile(latency_s, 0.99) < STALL_S / 2


@pytest.mark.slow
def test_a_second_of_stall_in_ten_is_in_the_p99_of_the_open_loop_alone() -> None:
    """500 requests a second, a stall of 1 s every 10 s: who is stalled waits 0 to 1 s, evenly.

    That is a tenth of all, so the slowest hundredth waits 900 ms and more; virtual time shows that
    to a tenth (test_analytic), here a busy machine adds its own. 21 s of load in all.
    """
    stalls = Behaviour(stall_every_s=10.0, stall_s=1.0)
    window = Window(warm_up_s=0.0, duration_s=10.0, seed=2)
    opened = measure_server(stalls, RunPlan(rate_per_s=500, window=window))[0].samples
    latency_s = opened.done_s_R - opened.intended_s_R
    assert quantile(latency_s, 0.99) > 0.81

    closed = measure_server(replace(stalls, requests=[]), RunPlan(concurrency=4, window=window))
    latency_s = closed[0].samples.done_s_R - closed[0].samples.intended_s_R
    assert latency_s.max() > 0.9  # the stall was there
    assert quantile(latency_s, 0.99) < 0.45  # and p99 says nothing of it


def test_statuses_of_a_real_server_are_told_apart() -> None:
    plan = RunPlan(concurrency=2, window=Window(warm_up_s=0, duration_s=0.3))
    measured, seen = measure_server(Behaviour(fail_every=3), plan)
    counts = Counter(measured.samples.status_R.tolist())
    assert set(counts) == {0, 8}
    assert abs(counts[8] - sum(counts.values()) / 3) <= 1
    assert seen.first_details == {8: "the queue is full"}
    assert seen.model_versions == {MODEL_VERSION: 1}


def test_a_server_that_dies_is_an_error_and_no_latency() -> None:
    plan = RunPlan(concurrency=2, window=Window(warm_up_s=0, duration_s=0.5))
    behaviour, seen = Behaviour(), Seen()

    async def main() -> Measured:
        async with AsyncExitStack() as stack:
            target = await stack.enter_async_context(serve(behaviour))
            async with await connect(target) as channel:
                caller = GrpcCaller(channel, plan.window.deadline_ms, seen)
                request = recommender_pb2.RecommendRequest(k=1).SerializeToString()
                running = asyncio.create_task(measure(plan, caller, [request], asyncio.Event()))
                await asyncio.to_thread(behaviour.answered.wait, DEADLINE_S)
                await stack.aclose()  # the server goes while the run is under way
                return await running

    counts = Counter(asyncio.run(main()).samples.status_R.tolist())
    assert counts[OK] > 0
    assert counts[14] > 0
    assert set(counts) <= {OK, 1, 14}  # CANCELLED: what was under way when it went
    assert seen.first_details[14]


def test_a_server_that_never_answers_ends_by_the_deadline() -> None:
    plan = RunPlan(concurrency=2, window=Window(warm_up_s=0, duration_s=0.2, deadline_ms=150))
    measured, _ = measure_server(Behaviour(never_answer=True), plan)
    assert set(measured.samples.status_R.tolist()) == {4}
    assert 2 <= len(measured.samples) <= 4


def test_nobody_there_is_one_line() -> None:
    with pytest.raises(BenchError, match=r"no server answers at 127\.0\.0\.1:1 within 0\.2 s"):
        asyncio.run(connect("127.0.0.1:1", within_s=0.2))
