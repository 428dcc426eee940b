"""What of the TensorRT runner its answers do not show: graphs, lanes, copies, memory."""

from dataclasses import replace

import numpy as np
import pytest
from support.fake_device import FakeDevice, FakeEngine
from support.fake_runner import BATCHES, STEPS, engine_runner
from support.runner_conformance import bind, check, requests
from support.tiny_bundle import Shop, graph_spec

from mmsr.engine.errors import DeviceFailed
from mmsr.engine.model import RowRequest, assemble
from mmsr.engine.runners import tensorrt
from mmsr.engine.runners.buckets import TooLargeError
from mmsr.engine.runners.tensorrt import TensorRTRunner
from mmsr.engine.runners.tensorrt_engine import EngineTensor


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


def test_from_the_second_call_of_a_shape_on_a_graph_is_launched(
    shop: Shop, device: FakeDevice
) -> None:
    runner = engine_runner(shop, device)
    bind(runner, shop)
    asked = [RowRequest([1, 2], [3], 5)]
    launches = []
    for _ in range(4):
        check(runner, shop, asked)
        launches.append(device.launches)
    assert launches == [0, 1, 2, 3]


def test_a_call_that_cannot_be_captured_is_queued_each_time(shop: Shop, device: FakeDevice) -> None:
    runner = engine_runner(shop, device, capturable=False)
    bind(runner, shop)
    for _ in range(3):
        check(runner, shop, [RowRequest([1, 2], [3], 5)])
    assert device.launches == 0


def test_pieces_take_turns_on_two_streams(shop: Shop, device: FakeDevice) -> None:
    runner = engine_runner(shop, device)
    bind(runner, shop)
    before = len(device.queues)
    check(runner, shop, requests(shop, 3))
    assert len(device.queues) == before + 1
    check(runner, shop, requests(shop, 5 * BATCHES[-1]))
    assert len(device.queues) == before + 2


def test_rows_are_written_without_the_rest_of_the_table(shop: Shop, device: FakeDevice) -> None:
    runner = engine_runner(shop, device)
    bind(runner, shop)
    before, rows = device.written, [3, 7]
    runner.write_rows("item_outputs", rows, shop.twin.outputs_CD[rows])
    assert device.written - before == 2 * 4 * shop.twin.width


def test_a_table_of_the_same_size_stays_where_it_is(shop: Shop, device: FakeDevice) -> None:
    """Or the graphs that were captured would all be lost."""
    runner = engine_runner(shop, device)
    bind(runner, shop)
    for _ in range(3):
        check(runner, shop, [RowRequest([1, 2], [3], 5)])
        bind(runner, shop)
    assert device.launches == 2


def test_nothing_is_left_on_the_device_after_close(shop: Shop, device: FakeDevice) -> None:
    runner = engine_runner(shop, device)
    bind(runner, shop)
    check(runner, shop, requests(shop, 40))
    assert device.memory
    runner.close()
    assert not device.memory
    assert not device.pinned_addresses


def test_shapes_that_were_not_asked_for_lately_are_freed(
    shop: Shop, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "MOST_CALLS", 2)
    runner = engine_runner(shop, device)
    bind(runner, shop)
    check(runner, shop, requests(shop, 1))
    sizes = []
    for count in (3, 16, 1, 3, 16, 1, 3):
        check(runner, shop, [r._replace(k=5) for r in requests(shop, count)])
        sizes.append(len(device.pinned_addresses))
    assert len(set(sizes[1:])) == 1


def test_what_no_profile_holds_is_too_large(shop: Shop, device: FakeDevice) -> None:
    runner = engine_runner(shop, device)
    bind(runner, shop)
    with pytest.raises(TooLargeError, match="E 300; at most 256"):
        runner.run(assemble([RowRequest([1], list(range(1, 301)), 3)]))
    check(runner, shop, requests(shop, 2))


class HalfEngine(FakeEngine):
    """Reads its item outputs in half precision, as engines that are built in fp16."""

    @property
    def tensors(self) -> dict[str, EngineTensor]:
        found = super().tensors
        return found | {"item_outputs": found["item_outputs"]._replace(dtype="float16")}


def test_tables_are_converted_to_what_the_engine_reads(shop: Shop, device: FakeDevice) -> None:
    profiles = [{"B": (1, 2)}]
    engine = HalfEngine(shop.folder / "sequence.onnx", graph_spec(), profiles, device)
    runner = TensorRTRunner(engine, graph_spec(), STEPS, device, name="half")
    before = device.written
    runner.bind("item_outputs", shop.twin.outputs_CD.copy())
    runner.write_rows("item_outputs", [5], shop.twin.outputs_CD[[5]])
    half = 2 * shop.twin.width
    assert device.written - before == half * (len(shop.twin.outputs_CD) + 1)
    stored = [b for b in device.memory.values() if b.nbytes == half * len(shop.twin.outputs_CD)]
    assert len(stored) == 1
    found = stored[0].view(np.float16).reshape(shop.twin.outputs_CD.shape)
    np.testing.assert_array_equal(found, shop.twin.outputs_CD.astype(np.float16))


def test_an_engine_of_another_graph_is_refused(shop: Shop, device: FakeDevice) -> None:
    spec = graph_spec()
    engine = FakeEngine(shop.folder / "sequence.onnx", spec, [], device)
    fewer = replace(spec, inputs=spec.inputs[1:])
    with pytest.raises(DeviceFailed, match=r"tensors are not those of sequence.onnx: history"):
        TensorRTRunner(engine, fewer, STEPS, device, name="other")
