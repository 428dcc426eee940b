"""What of a table is copied to a device, and where it comes to lie there."""

import numpy as np
import pytest
from support.fake_device import FakeDevice

from mmsr.bundle.manifest import TensorSpec
from mmsr.engine.runners.base import AnyArray
from mmsr.engine.runners.device_tables import DeviceTables

SPECS = {
    "rows": TensorSpec(name="rows", dtype="float32", shape=("C", 4)),
    "columns": TensorSpec(name="columns", dtype="int8", shape=(4, "C")),
}
BYTES = 16  # of a row


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def tables(device: FakeDevice) -> DeviceTables:
    return DeviceTables(device, SPECS)


def table(rows: int, seed: int = 0) -> AnyArray:
    return np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)


def on_device(device: FakeDevice, tables: DeviceTables, name: str = "rows") -> AnyArray:
    shape, spec = tables.shape[name], SPECS[name]
    size = int(np.prod(shape)) * np.dtype(spec.dtype).itemsize
    return device.memory[tables.address[name]][:size].view(spec.dtype).reshape(shape)


def test_fewer_and_again_as_many_rows_of_one_table_cost_nothing(
    device: FakeDevice, tables: DeviceTables
) -> None:
    array = table(100)
    assert tables.bind("rows", array)
    before = device.written
    for count in (10, 50, 100, 10):
        assert not tables.bind("rows", array[:count])
        np.testing.assert_array_equal(on_device(device, tables), array[:count])
    assert device.written == before


def test_more_rows_cost_the_copy_of_those_alone(device: FakeDevice, tables: DeviceTables) -> None:
    array = table(100)
    tables.bind("rows", array)
    tables.bind("rows", array[:20].copy())  # another table, of which the device has 20 rows
    other = table(60, seed=1)
    tables.bind("rows", other[:30])
    before = device.written
    assert not tables.bind("rows", other)
    assert device.written - before == 30 * BYTES
    np.testing.assert_array_equal(on_device(device, tables), other)


def test_as_many_rows_are_copied_anew(device: FakeDevice, tables: DeviceTables) -> None:
    array = table(10)
    tables.bind("rows", array)
    array[3] = 7.0
    assert not tables.bind("rows", array)
    np.testing.assert_array_equal(on_device(device, tables), array)


def test_another_table_that_takes_its_memory_is_not_taken_for_it(
    device: FakeDevice, tables: DeviceTables
) -> None:
    for seed in range(20):
        tables.bind("rows", table(50 + seed % 3, seed))
        np.testing.assert_array_equal(on_device(device, tables), table(50 + seed % 3, seed))


def test_a_row_beyond_those_that_are_bound_is_written_for_later(
    device: FakeDevice, tables: DeviceTables
) -> None:
    array = table(100)
    tables.bind("rows", array)
    tables.bind("rows", array[:10])
    array[[3, 90]] = array[[90, 3]]
    tables.write_rows("rows", [3, 90], array[[3, 90]])
    tables.bind("rows", array[:99])
    np.testing.assert_array_equal(on_device(device, tables), array[:99])


def test_columns_are_rows_where_the_axis_says_so(device: FakeDevice, tables: DeviceTables) -> None:
    codes = np.arange(40, dtype=np.int8).reshape(4, 10)
    tables.bind("columns", codes)
    codes[:, [2, 7]] = 99
    tables.write_rows("columns", [2, 7, 50], np.full((4, 3), 99, np.int8), axis=1)
    np.testing.assert_array_equal(on_device(device, tables, "columns"), codes)
