from hypothesis import given, settings
from hypothesis import strategies as st

from mmsr.engine.batch_times import WEIGHT, BatchTimes


def test_nothing_is_predicted_before_the_first_measurement() -> None:
    assert BatchTimes().predict(8) == 0.0


def test_the_prediction_follows_the_measurements() -> None:
    times = BatchTimes()
    times.record(8, 0.010)
    times.record(8, 0.020)
    assert times.predict(8) == 0.010 + WEIGHT * 0.010


def test_a_larger_batch_costs_at_most_its_parts() -> None:
    times = BatchTimes()
    times.record(1, 0.002)
    assert times.predict(10) == 0.020


def test_a_smaller_batch_costs_at_most_the_whole() -> None:
    times = BatchTimes()
    times.record(64, 0.005)
    assert times.predict(3) == 0.005


def test_one_stalled_batch_does_not_raise_the_prediction_of_its_size() -> None:
    times = BatchTimes()
    for size in (1, 2, 4, 8, 16, 32):
        times.record(size, 0.001 + 0.0001 * size)
    times.record(64, 5.0)
    assert times.predict(64) <= 2 * times.predict(32)


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.tuples(st.integers(1, 64), st.floats(1e-6, 1.0)), min_size=1))
def test_the_prediction_grows_with_the_size_but_not_faster(
    measured: list[tuple[int, float]],
) -> None:
    times = BatchTimes()
    for size, seconds in measured:
        times.record(size, seconds)
    predicted = [times.predict(size) for size in range(1, 65)]
    assert predicted == sorted(predicted)
    for size in (1, 2, 4, 8, 16, 32):
        assert times.predict(2 * size) <= 2 * times.predict(size) * (1 + 1e-9)
