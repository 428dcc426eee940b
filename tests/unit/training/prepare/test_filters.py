import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsr.training.prepare.filters import Log, by_user_and_time, k_core, repeats

Rows = list[tuple[int, int, int]]
logs = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(0, 2)), max_size=40)


def log_of(rows: Rows) -> Log:
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return Log(
        user_T=columns[:, 0].astype(np.int32),
        item_T=columns[:, 1].astype(np.int32),
        time_T=columns[:, 2].astype(np.float64),
        row_T=np.arange(1, len(rows) + 1),
    )


@settings(max_examples=50, deadline=None)
@given(logs)
def test_the_order_is_by_user_then_time_then_place_in_the_file(rows: Rows) -> None:
    log = by_user_and_time(log_of(rows))
    expected = sorted(range(len(rows)), key=lambda t: (rows[t][0], rows[t][2], t))
    assert log.row_T.tolist() == [t + 1 for t in expected]


@settings(max_examples=50, deadline=None)
@given(logs)
def test_repeats_are_what_a_set_of_seen_rows_finds(rows: Rows) -> None:
    log = by_user_and_time(log_of(rows))
    seen: set[tuple[int, int, int]] = set()
    expected = {
        place
        for place, row in enumerate(rows, start=1)
        if row in seen or seen.add(row)  # type: ignore[func-returns-value]
    }
    assert set(log.row_T[repeats(log)].tolist()) == expected


@settings(max_examples=50, deadline=None)
@given(logs, st.integers(1, 4))
def test_the_core_is_the_largest_part_in_which_all_have_k(rows: Rows, k: int) -> None:
    log = log_of(rows)
    poor_user_T, poor_item_T = k_core(log, k)
    assert not (poor_user_T & poor_item_T).any()
    left = np.flatnonzero(~(poor_user_T | poor_item_T)).tolist()
    assert left == core_by_one_removal_at_a_time(rows, k)


def core_by_one_removal_at_a_time(rows: Rows, k: int) -> list[int]:
    left = list(range(len(rows)))
    while True:
        poor = [
            t
            for t in left
            if sum(rows[o][0] == rows[t][0] for o in left) < k
            or sum(rows[o][1] == rows[t][1] for o in left) < k
        ]
        if not poor:
            return left
        left.remove(poor[0])


def test_an_empty_log_has_no_repeats_and_no_core() -> None:
    empty = log_of([])
    assert len(by_user_and_time(empty)) == 0
    assert repeats(empty).tolist() == []
    assert [mask.tolist() for mask in k_core(empty, 5)] == [[], []]
