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


def settled(**seconds: float) -> BatchTimes:
    times = BatchTimes()
    for name, spent_s in seconds.items():
        times.record(int(name[3:]), spent_s)
    times.settle()
    return times


def test_a_batch_is_efficient_from_where_more_company_gains_little() -> None:
    on_cpu = settled(of_1=3.9, of_2=3.8, of_4=4.2, of_8=5.0, of_16=8.3, of_32=15.9, of_64=37.6)
    assert on_cpu.efficient(64, 0.9) == 16
    assert on_cpu.efficient(64, 1.0) == 32
    assert on_cpu.efficient(8, 0.9) == 8
    assert on_cpu.efficient(64, 0.0) == 1
    on_gpu = settled(of_1=1.0, of_8=1.1, of_64=1.5)
    assert on_gpu.efficient(64, 0.9) == 64


def test_what_is_short_anyway_is_not_made_smaller() -> None:
    small = settled(of_1=0.5, of_4=0.7, of_8=1.2, of_16=2.1, of_32=4.5, of_64=10.4)
    assert small.efficient(64, 0.9) == 16
    assert small.efficient(64, 0.9, 10.0) == 32
    assert small.efficient(16, 0.9, 10.0) == 16
    assert settled(of_1=20.0, of_64=400.0).efficient(64, 0.9, 10.0) == 64


def test_before_anything_is_settled_the_largest_batch_is_taken() -> None:
    times = BatchTimes()
    assert times.efficient(64, 0.9) == 64
    times.record(1, 0.001)
    assert times.efficient(64, 0.9) == 64


def test_later_requests_do_not_change_what_is_efficient() -> None:
    times = settled(of_1=1.0, of_8=1.1)
    for _ in range(100):
        times.record(1, 0.001)
    assert times.efficient(8, 0.9) == 8
    other = BatchTimes()
    other.record(1, 0.0001)
    times.lower(other)
    assert times.efficient(8, 0.9) == 8


@given(
    st.dictionaries(st.sampled_from([1, 2, 4, 8, 16, 32, 64]), st.floats(0.0, 10.0), min_size=1),
    st.floats(0.0, 1.0),
    st.floats(0.001, 10.0),
)
def test_an_efficient_batch_has_its_share_of_the_best_rate_and_no_smaller_one_has(
    seconds: dict[int, float], share: float, short_s: float
) -> None:
    times = settled(**{f"of_{size}": spent_s for size, spent_s in seconds.items()})
    rates = {size: size / max(spent_s, 1e-9) for size, spent_s in seconds.items()}
    found = times.efficient(64, share)
    assert rates[found] >= share * max(rates.values())
    assert all(rates[size] < share * max(rates.values()) for size in rates if size < found)
    longer = times.efficient(64, share, short_s)
    assert longer == found or (longer > found and seconds[longer] <= short_s)
    assert all(spent_s > short_s for size, spent_s in seconds.items() if size > longer)


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
