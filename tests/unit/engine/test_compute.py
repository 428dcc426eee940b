import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mmsr.engine.compute import ComputeThread

PATIENCE_S = 60.0


def with_thread(main: Callable[[ComputeThread], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        compute = ComputeThread(asyncio.get_running_loop())
        compute.start()
        try:
            await asyncio.wait_for(main(compute), PATIENCE_S)
        finally:
            compute.close()

    asyncio.run(inside())


def test_calls_run_in_one_other_thread_in_order() -> None:
    seen: list[tuple[int, int]] = []

    async def main(compute: ComputeThread) -> None:
        calls = [
            compute.run(lambda n=n: seen.append((n, threading.get_ident())))  # type: ignore[misc]
            for n in range(5)
        ]
        await asyncio.gather(*calls)

    with_thread(main)
    assert [number for number, _ in seen] == [0, 1, 2, 3, 4]
    assert len({thread for _, thread in seen}) == 1
    assert seen[0][1] != threading.get_ident()


def test_an_error_reaches_the_caller_and_the_thread_lives_on() -> None:
    async def main(compute: ComputeThread) -> None:
        with pytest.raises(ZeroDivisionError):
            await compute.run(lambda: 1 / 0)
        assert await compute.run(lambda: 2) == 2

    with_thread(main)


def test_whoever_joins_is_told_whether_the_thread_has_ended() -> None:
    async def main(compute: ComputeThread) -> None:
        release = threading.Event()
        compute.submit(release.wait, lambda result, error: None)
        compute.close()
        assert not compute.join(0.0)
        release.set()
        assert compute.join(PATIENCE_S)

    with_thread(main)


def test_a_caller_may_give_up() -> None:
    async def main(compute: ComputeThread) -> None:
        release = threading.Event()
        waiting = asyncio.create_task(compute.run(release.wait))
        await asyncio.sleep(0)
        waiting.cancel()
        release.set()
        assert await compute.run(lambda: 3) == 3
        assert waiting.cancelled()

    with_thread(main)
