"""One suite for every runner; those of a GPU compute on a device that the host's memory plays."""

from collections.abc import Callable, Iterator

import pytest
from support.fake_device import FakeDevice, open_session
from support.fake_runner import engine_runner
from support.runner_conformance import CHECKS
from support.tiny_bundle import Shop, graph_spec

from mmsr.engine.runners.base import Runner
from mmsr.engine.runners.engine_files import sequence_steps
from mmsr.engine.runners.fallback import WithFallback
from mmsr.engine.runners.onnx import open_onnx
from mmsr.engine.runners.onnx_cuda import OnnxCudaRunner

Factory = Callable[[Shop], Runner]


def cpu(shop: Shop) -> Runner:
    return open_onnx(shop.folder / "sequence.onnx", graph_spec(), threads=1)


def cuda(shop: Shop) -> Runner:
    session = open_session(shop.folder / "sequence.onnx")
    items = shop.sizes.items
    steps = sequence_steps(batch=16, length=12, excluded=1024, results=items)
    return OnnxCudaRunner(session, graph_spec(), steps, FakeDevice(), place="cpu")


def tensorrt(shop: Shop) -> Runner:
    return WithFallback(engine_runner(shop, FakeDevice()), lambda: cpu(shop))


def tensorrt_without_graphs(shop: Shop) -> Runner:
    runner = engine_runner(shop, FakeDevice(), capturable=False)
    return WithFallback(runner, lambda: cpu(shop))


FACTORIES: tuple[Factory, ...] = (cpu, cuda, tensorrt, tensorrt_without_graphs)


@pytest.fixture(params=FACTORIES, ids=lambda factory: factory.__name__)
def runner(request: pytest.FixtureRequest, shop: Shop) -> Iterator[Runner]:
    opened: Runner = request.param(shop)
    yield opened
    opened.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_runner(check: Callable[[Runner, Shop], None], runner: Runner, shop: Shop) -> None:
    check(runner, shop)
