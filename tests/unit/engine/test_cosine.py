import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mmsr.engine.cosine import BLOCK, best, cosines, slices


def test_cosines_are_those_of_the_formula() -> None:
    random = np.random.default_rng(0)
    table_nD = random.normal(size=(2 * BLOCK + 3, 8)).astype(np.float32)
    query_D = table_nD[5] * 3
    lengths_n = np.linalg.norm(table_nD.astype(np.float64), axis=1)
    wanted = table_nD.astype(np.float64) @ query_D / lengths_n / np.linalg.norm(query_D)
    assert cosines(table_nD, query_D) == pytest.approx(wanted, abs=1e-6)


def test_a_vector_without_length_is_near_to_nothing() -> None:
    table_nD = np.array([[0, 0], [3, 4], [-6, -8]], np.float32)
    assert cosines(table_nD, table_nD[1]).tolist() == pytest.approx([0, 1, -1])
    assert cosines(table_nD, table_nD[0]).tolist() == [0, 0, 0]


def test_no_cosine_is_above_1() -> None:
    random = np.random.default_rng(1)
    table_nD = random.normal(size=(500, 64)).astype(np.float32)
    assert all(cosines(table_nD, row).max() <= 1.0 for row in table_nD[:50])


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([-1.0, -0.5, 0.0, 1.0])),
    st.integers(1, 50),
)
def test_the_best_are_those_of_a_full_sort(
    cosine_n: "np.ndarray[tuple[int], np.dtype[np.float32]]", k: int
) -> None:
    rows_n = np.arange(len(cosine_n)) * 2 + 3
    rows, values = best(cosine_n, rows_n, k)
    wanted = sorted(zip((-cosine_n).tolist(), rows_n.tolist(), strict=True))[:k]
    assert rows.tolist() == [row for _, row in wanted]
    assert values.tolist() == [-value for value, _ in wanted]


def test_slices_cover_all_rows_once() -> None:
    assert [*slices(7, 3)] == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert [*slices(0, 3)] == []
