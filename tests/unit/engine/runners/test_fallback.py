"""The runner beside: used for what is too large, opened no sooner, and never behind."""

from collections.abc import Callable, Iterator

import pytest
from support.fake_device import FakeDevice
from support.fake_runner import engine_runner
from support.runner_conformance import bind, check, inputs_of, requests
from support.tiny_bundle import Shop, graph_spec

from mmsr.engine.items import bound_rows
from mmsr.engine.model import RowRequest
from mmsr.engine.runners.base import Runner
from mmsr.engine.runners.fallback import WithFallback
from mmsr.engine.runners.onnx import open_onnx


class Opening:
    """Counts how often the second runner is opened."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.count = 0

    def __call__(self) -> Runner:
        self.count += 1
        return open_onnx(self.shop.folder / "sequence.onnx", graph_spec(), threads=1)


@pytest.fixture
def opening(shop: Shop) -> Opening:
    return Opening(shop)


@pytest.fixture
def runner(shop: Shop, opening: Callable[[], Runner]) -> Iterator[WithFallback]:
    made = WithFallback(engine_runner(shop, FakeDevice()), opening)
    bind(made, shop)
    yield made
    made.close()


TOO_LONG = RowRequest([1, 2], list(range(1, 200)) * 2, 5)


def test_it_is_called_what_computes_nearly_everything(runner: WithFallback) -> None:
    assert (runner.name, runner.spec) == ("fake TensorRT", graph_spec())


def test_the_second_is_opened_once_and_when_it_is_needed(
    runner: WithFallback, opening: Opening, shop: Shop
) -> None:
    check(runner, shop, requests(shop, 3))
    assert opening.count == 0
    check(runner, shop, [TOO_LONG])
    check(runner, shop, [TOO_LONG])
    assert opening.count == 1


def best_of(runner: Runner, shop: Shop, request: RowRequest) -> int:
    return int(runner.run(inputs_of(shop, [request]))["rows"][0, 0])


@pytest.mark.parametrize("by_owner", [True, False])
def test_written_rows_are_read_by_both(
    runner: WithFallback, opening: Opening, shop: Shop, by_owner: bool
) -> None:
    """Where the owner's own table has them, the second need not be opened to be told."""
    long, short = (
        TOO_LONG._replace(excluded=[*range(1, 7), *range(8, 200)] * 2),
        RowRequest([1, 2], [], 5),
    )
    table_CD = shop.twin.outputs_CD[: bound_rows(shop.sizes.items)].copy()
    runner.bind("item_outputs", table_CD)
    row_1D = 100.0 * shop.twin.state([1, 2])[None]  # nearer to the state than any other
    if by_owner:
        table_CD[[7]] = row_1D
    runner.write_rows("item_outputs", [7], row_1D)
    assert opening.count == (0 if by_owner else 1)
    assert best_of(runner, shop, short) == 7
    assert best_of(runner, shop, long) == 7
