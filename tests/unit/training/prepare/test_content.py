import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsr.training.prepare.content import ContentHash

rows = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.none() | st.text(max_size=3),
            "names": st.lists(st.none() | st.text(max_size=2), max_size=3),
        }
    ),
    min_size=1,
    max_size=12,
)
SCHEMA = pa.schema([("text", pa.string()), ("names", pa.list_(pa.string()))])


def hash_of(*tables: pa.Table) -> str:
    content = ContentHash()
    for table in tables:
        content.add_table(table)
    return content.hexdigest()


@settings(max_examples=30, deadline=None)
@given(rows, st.integers(0, 12))
def test_where_a_table_is_cut_does_not_matter(lines: list[dict[str, object]], cut: int) -> None:
    table = pa.Table.from_pylist(lines, SCHEMA)
    assert hash_of(table) == hash_of(table.slice(0, cut), table.slice(cut))


@settings(max_examples=30, deadline=None)
@given(rows, rows)
def test_other_values_have_another_hash(
    lines: list[dict[str, object]], others: list[dict[str, object]]
) -> None:
    same = hash_of(pa.Table.from_pylist(lines, SCHEMA)) == hash_of(
        pa.Table.from_pylist(others, SCHEMA)
    )
    assert same == (lines == others)


def test_arrays_differ_by_name_type_and_value() -> None:
    hashes = set()
    for name, array in (
        ("a", np.array([1, 2], dtype=np.int32)),
        ("b", np.array([1, 2], dtype=np.int32)),
        ("a", np.array([1, 2], dtype=np.uint32)),
        ("a", np.array([2, 1], dtype=np.int32)),
    ):
        content = ContentHash()
        content.add_array(name, array)
        hashes.add(content.hexdigest())
    assert len(hashes) == 4
