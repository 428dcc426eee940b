from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mmsr.training.prepare.values import (
    clean_categories,
    clean_text,
    is_categories_type,
    is_scalar_type,
    is_time_type,
    parse_time,
    read_ids,
    read_times,
    unsplit_separator,
)

NOON_S = 1_704_196_800.0  # 2024-01-02T12:00:00Z


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["a", None, ""], ["a", None, ""]),
        ([7, "007", 7.0, 1.5, float("nan")], ["7", "007", "7", "1.5", None]),
        (pa.array([7, None], pa.int64()), ["7", None]),
        (pa.array([7.0, 12.0]), ["7", "12"]),
        (pa.array([7.0, None, 1.5]), ["7", None, "1.5"]),
        (pa.array([1e300]), [str(int(1e300))]),
        (pa.array(["a", None], pa.large_string()), ["a", None]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([3, 3]).dictionary_encode(), ["3", "3"]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_ids_become_texts(column: Any, expected: list[str | None]) -> None:
    assert read_ids(column).to_pylist() == expected


@pytest.mark.parametrize(
    "column",
    [
        ["1704196800", "2024-01-02T12:00:00Z", "2024-01-02 12:00:00", "2024-01-02T14:00:00+02:00"],
        [1704196800, 1704196800.0, " 1704196800 ", "1.7041968e9"],
        pa.array([1704196800] * 4, pa.int32()),
        pa.array([Decimal("1704196800.00")] * 4),
        pa.array([datetime(2024, 1, 2, 12)] * 4, pa.timestamp("us")),
        pa.array([datetime(2024, 1, 2, 12, tzinfo=UTC)] * 4, pa.timestamp("ns", "Europe/Paris")),
        pa.array([datetime(2024, 1, 2, 14, tzinfo=timezone(timedelta(hours=2)))] * 4),
        pa.array(["2024-01-02T12:00:00"] * 4).dictionary_encode(),
    ],
)
def test_every_way_to_write_a_moment_is_the_same_second(column: Any) -> None:
    seconds_R, absent_R = read_times(column)
    np.testing.assert_array_equal(seconds_R, NOON_S)
    assert not absent_R.any()


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_a_date_is_its_midnight(kind: Any) -> None:
    seconds_R, _ = read_times(pa.array([date(2024, 1, 2)], kind))
    assert seconds_R.tolist() == [NOON_S - 43_200]
    assert parse_time("2024-01-02") == NOON_S - 43_200


@pytest.mark.parametrize("text", ["soon", "1_000", "2024-13-01", "12:00", "nan"])
def test_what_is_no_time_is_not_a_number(text: str) -> None:
    assert np.isnan(parse_time(text))


@pytest.mark.parametrize("column", [[None, "", "5"], pa.array([None, "", "5"])])
def test_an_empty_time_is_absent(column: Any) -> None:
    seconds_R, absent_R = read_times(column)
    assert absent_R.tolist() == [True, True, False]
    assert seconds_R[2] == 5


def test_numeric_columns_tell_null_from_nan() -> None:
    seconds_R, absent_R = read_times(pa.array([1.5, None, float("nan"), float("inf")]))
    assert absent_R.tolist() == [False, True, False, False]
    np.testing.assert_array_equal(seconds_R, [1.5, np.nan, np.nan, np.inf])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, (None, True)),
        ("  ", (None, True)),
        (" Mug ", ("Mug", True)),
        (1984, ("1984", True)),
        (float("nan"), (None, True)),
        (True, (None, False)),
        (["Mug"], (None, False)),
    ],
)
def test_texts(value: object, expected: tuple[str | None, bool]) -> None:
    assert clean_text(value) == expected


@pytest.mark.parametrize(
    ("value", "separator", "expected"),
    [
        (None, None, ([], True)),
        ("Cups|Mugs", None, (["Cups|Mugs"], True)),
        ("Cups| Mugs ||Cups", "|", (["Cups", "Mugs"], True)),
        (["Cups", None, " ", "Mugs", "Cups"], None, (["Cups", "Mugs"], True)),
        ([["Cups"]], None, ([], False)),
        (3, None, ([], False)),
    ],
)
def test_categories(value: object, separator: str | None, expected: tuple[Any, bool]) -> None:
    assert clean_categories(value, separator) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Action|Comedy", "|"),
        ("Home, Kitchen; Beds", ";"),
        ("Home, Kitchen", ","),
        ("Comedy", None),
        (["Home, Kitchen"], None),
        (None, None),
    ],
)
def test_a_text_that_looks_like_a_list_is_known(value: object, expected: str | None) -> None:
    names, _ = clean_categories(value, None)
    assert unsplit_separator(value, names) == expected


def test_types_that_a_column_may_have() -> None:
    texts = pa.dictionary(pa.int32(), pa.string())
    assert is_scalar_type(texts)
    assert not is_scalar_type(pa.binary())
    assert is_time_type(pa.timestamp("ms"))
    assert not is_time_type(pa.bool_())
    assert is_categories_type(pa.list_(texts))
    assert not is_categories_type(pa.list_(pa.int64()))
