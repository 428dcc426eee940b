"""Columns as they stand in the files -> ids, times, texts. Knows no files and no reasons.

A column is an Arrow array (Parquet) or a list of Python values (CSV, JSON lines).
"""

# R rows of one block

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Column = Any  # pa.Array (the package carries no types) or list[object]

TICKS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
USUAL_SEPARATORS = "|;,"  # the first that a text holds is the likeliest
EXACT_INTEGERS = 2.0**53  # a float64 below it that is whole is exactly that whole number


def is_scalar_type(kind: Any) -> bool:
    """Say whether an Arrow type can hold ids and texts: texts or numbers."""
    if pa.types.is_dictionary(kind):
        return is_scalar_type(kind.value_type)
    return (
        _is_text(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_null(kind)
    )


def is_time_type(kind: Any) -> bool:
    """Say whether an Arrow type can hold times: numbers, dates, timestamps or texts."""
    return is_scalar_type(kind) or (
        pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_decimal(kind)
    )


def is_categories_type(kind: Any) -> bool:
    """Say whether an Arrow type can hold categories: lists of texts, or texts."""
    if pa.types.is_dictionary(kind):
        return is_categories_type(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return is_categories_type(kind.value_type)
    return _is_text(kind) or pa.types.is_null(kind)


def shown(column: Column, index: npt.NDArray[np.int64]) -> list[str | None]:
    """Return the chosen values as texts, for people to read."""
    if isinstance(column, list):
        return [None if column[i] is None else str(column[i]) for i in index]
    texts: list[str | None] = _plain(column).take(pa.array(index)).cast(pa.string()).to_pylist()
    return texts


def read_ids(column: Column) -> Any:
    """Return a string array [R]; numbers become their digits, absent ids null."""
    if isinstance(column, list):
        return pa.array([id_text(value) for value in column], pa.string())
    column = _plain(column)
    if pa.types.is_floating(column.type):  # whole numbers beside nulls, as pandas writes them
        floats_R = column.to_numpy(zero_copy_only=False)
        if not np.all((floats_R == np.trunc(floats_R)) & (np.abs(floats_R) < EXACT_INTEGERS)):
            return pa.array([id_text(value) for value in column.to_pylist()], pa.string())
        column = column.cast(pa.int64())
    return column.cast(pa.string())


def id_text(value: object) -> str | None:
    """Return one id as text; None for an absent one."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)


def read_times(column: Column) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return seconds [R], NaN where there is no usable time, and [R]: nothing stands there.

    A number counts as seconds (or whatever unit the shop uses: only the order matters).
    A date or an ISO 8601 text becomes seconds since 1970, UTC unless it names a zone.
    """
    if isinstance(column, list):
        texts = [None if value is None else str(value) for value in column]
        column = pa.array(texts, pa.string())
    column = _plain(column)
    absent_R = column.is_null().to_numpy(zero_copy_only=False)
    if _is_text(column.type):
        column = column.cast(pa.string())
        absent_R = absent_R | _numpy(pc.fill_null(pc.equal(column, ""), True)).astype(bool)
        return _text_times(column), absent_R
    return _native_times(column), absent_R


def clean_text(value: object) -> tuple[str | None, bool]:
    """Return the stripped text, None for an empty one, and whether the value could be read."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, True
    if isinstance(value, str):
        return value.strip() or None, True
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None, False
    return id_text(value), True


def clean_categories(value: object, separator: str | None) -> tuple[list[str], bool]:
    """Return distinct non-empty names in their order, and whether the value could be read.

    A plain text is one category, or several where there is a `separator`.
    """
    if value is None:
        return [], True
    if isinstance(value, str):
        value = value.split(separator) if separator else [value]
    if not isinstance(value, list) or any(not isinstance(v, str | None) for v in value):
        return [], False
    names = (name.strip() for name in value if name is not None)
    return list(dict.fromkeys(name for name in names if name)), True


def unsplit_separator(value: object, names: list[str]) -> str | None:
    """Return the separator that a text seems to hold that became one category, else None."""
    if not isinstance(value, str) or len(names) != 1:
        return None
    return next((separator for separator in USUAL_SEPARATORS if separator in names[0]), None)


def _is_text(kind: Any) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _plain(column: Any) -> Any:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _numpy(array: Any) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values


def _native_times(column: Any) -> npt.NDArray[np.float64]:
    kind = column.type
    if pa.types.is_timestamp(kind):
        ticks_R = _numpy(column.cast(pa.int64()).cast(pa.float64(), safe=False))
        return ticks_R / TICKS_PER_SECOND[kind.unit]
    if pa.types.is_date(kind):
        days_R = column.cast(pa.date32()).cast(pa.int32()).cast(pa.float64())
        return _numpy(days_R) * 86_400.0
    return _numpy(column.cast(pa.float64(), safe=False)).astype(np.float64)


def _text_times(texts: Any) -> npt.NDArray[np.float64]:
    try:
        return _numpy(pc.cast(texts, pa.float64())).astype(np.float64)
    except pa.ArrowInvalid:  # at least one is no plain number: look at each
        return np.array([parse_time(text) for text in texts.to_pylist()], dtype=np.float64)


def parse_time(text: str | None) -> float:
    """Return seconds, NaN where the text is neither a number nor an ISO 8601 date."""
    if text is None:
        return math.nan
    text = text.strip()
    try:
        return float(text) if "_" not in text else math.nan
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
