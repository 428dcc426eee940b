"""Brands as categories: the brand says who buys again, and a multi-hot is how a model reads it."""

# N items

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mmsr.bundle.compose import BRAND


def common_brands(items: Path, staying_N: npt.NDArray[np.bool_], least: int) -> frozenset[str]:
    """Return the brands of at least `least` of the staying items of a Parquet file."""
    column = pq.read_table(items, columns=["brand"])["brand"]
    counts = Counter(column.filter(pa.array(staying_N)).to_pylist())
    return frozenset(b for b, count in counts.items() if b is not None and count >= least)


def add_brands(table: Any, brands: frozenset[str]) -> Any:
    """Return the items with one more category each, for those that have one of the brands."""
    lists = [
        [*names, BRAND + brand] if brand in brands else names
        for names, brand in zip(
            table["categories"].to_pylist(), table["brand"].to_pylist(), strict=True
        )
    ]
    place = table.schema.get_field_index("categories")
    field = table.schema.field(place)
    return table.set_column(place, field, pa.array(lists, field.type))
