"""What is left of a deployment when it is freed: nothing."""

import asyncio
import gc
import logging
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from support.serving import config_of
from support.tiny_bundle import Shop

from mmsr.bundle.repository import Repository
from mmsr.engine.compute import ComputeThread
from mmsr.engine.deployment import Deployment, assembled, open_whole, sizes_up_to
from mmsr.engine.loader import _free, switching
from mmsr.engine.memory import give_back, resident_bytes


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """Let the rest of the tests be collected as before."""
    yield
    gc.enable()
    gc.unfreeze()


def opened(shop: Shop, lease: ExitStack) -> Deployment:
    async def main() -> Deployment:
        compute = ComputeThread(asyncio.get_running_loop())
        config = config_of(shop)
        whole = open_whole(shop.folder, config, time.monotonic)
        return assembled(whole, config, compute, time.monotonic, lease)

    return asyncio.run(main())


def test_a_deployment_is_freed_without_the_collector_and_lets_its_bundle_go(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    repository, lease = Repository(shop.root), ExitStack()
    lease.enter_context(repository.hold(shop.folder.name))
    doomed = [opened(shop, lease)]
    traces: list[weakref.ref[Any]] = [weakref.ref(doomed[0].model), weakref.ref(doomed[0].service)]
    assert repository.is_held(shop.folder.name)
    gc.disable()
    gc.freeze()
    _free(doomed)
    assert doomed == []
    assert [trace() for trace in traces] == [None, None]
    assert not repository.is_held(shop.folder.name)
    assert "still referred to" not in caplog.text


def test_what_refers_to_itself_is_found_and_freed_all_the_same(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    doomed = [opened(shop, ExitStack())]
    circle: list[object] = [doomed[0].model]
    circle.append(circle)
    trace = weakref.ref(doomed[0].model)
    del circle
    gc.freeze()
    with caplog.at_level(logging.WARNING):
        _free(doomed)
    assert trace() is None
    assert "still referred to" in caplog.text


def test_turns_in_the_interpreter_are_shorter_only_for_a_while() -> None:
    before = sys.getswitchinterval()
    with switching(0.0007):
        assert sys.getswitchinterval() == pytest.approx(0.0007)
    assert sys.getswitchinterval() == before


def test_memory_is_read_and_given_back() -> None:
    give_back()
    assert resident_bytes() > 1 << 20


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (64, [1, 2, 4, 8, 16, 32, 64])]
)
def test_every_bucket_is_warmed_up(most: int, sizes: list[int]) -> None:
    assert sizes_up_to(most) == sizes
