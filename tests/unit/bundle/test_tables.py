"""A table that is damaged is one error of the right kind, whatever numpy makes of it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmsr.bundle.catalogue import SCHEMA, Catalogue, load_catalogue
from mmsr.bundle.errors import BundleError, one_line
from mmsr.bundle.tables import UNREADABLE, create_table, map_table, read_only, save_table

SHAPE = (4, 3)


def npy(header: str) -> bytes:
    """Return a file of that header and no rows."""
    padded = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


FILES = {
    "nothing": b"",
    "no table": b"what is this",
    "half a header": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3), }")[:40],
    "a header that does not close": npy("{'descr': '<f4', 'shape': ((("),
    "a header that is not indented": npy("if x:\n 1\n  2"),
    "no rows": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3), }"),
    "more rows than there are": npy(
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30},), }}"
    ),
    "a negative size": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, 3), }"),
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (4, 3), }"),
    "no type": npy("{'descr': 'what', 'fortran_order': False, 'shape': (4, 3), }"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_table_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "table.npy"
    path.write_bytes(FILES[name])
    with pytest.raises(BundleError, match=r"table\.npy is unreadable \(.+\); export") as refused:
        map_table(path, SHAPE)
    assert "\n" not in str(refused.value)
    with pytest.raises(UNREADABLE):
        read_only(path)


def test_an_archive_of_tables_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "table.npy"
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(SHAPE, np.float32))
    with pytest.raises(BundleError, match="is unreadable"):
        map_table(path, SHAPE)


@pytest.mark.parametrize(
    "table", [np.zeros((3, 4), np.float32), np.zeros(SHAPE), np.zeros(SHAPE, np.float32, "F")]
)
def test_a_table_of_another_form_is_refused(tmp_path: Path, table: object) -> None:
    np.save(tmp_path / "table.npy", np.asarray(table))
    with pytest.raises(BundleError, match=r"the manifest says float32 \[4, 3\]"):
        map_table(tmp_path / "table.npy", SHAPE)


def test_what_is_written_into_a_mapped_table_stays_out_of_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", np.zeros(SHAPE, np.float32))
    map_table(tmp_path / "table.npy", SHAPE)[:] = 1.0
    assert not read_only(tmp_path / "table.npy").any()


def test_a_full_disk_is_called_one() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        save_table(Path("/dev/full"), np.zeros((200, 3), np.float32))


@pytest.mark.parametrize(
    "table", [np.zeros(SHAPE, np.bool_), np.zeros(0, np.int64), np.zeros(5, "S32,<f4")]
)
def test_a_saved_table_is_as_numpy_saves_it(tmp_path: Path, table: object) -> None:
    save_table(tmp_path / "ours.npy", np.asarray(table))
    np.save(tmp_path / "numpy.npy", np.asarray(table))
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()


def test_a_new_table_has_all_its_blocks_before_it_is_written(tmp_path: Path) -> None:
    """A full disk is told then; later it would be a signal that ends the process."""
    table = create_table(tmp_path / "table.npy", (1000, 50))
    assert not table.any()
    found = (tmp_path / "table.npy").stat()
    assert found.st_blocks * 512 >= found.st_size


def test_a_librarys_complaint_becomes_one_printable_line() -> None:
    assert one_line(ValueError("two\n  lines, \x0e and \x1b[31mred")) == "two lines, � and �[31mred"
    assert one_line(EOFError()) == "EOFError"


@pytest.mark.parametrize("column", ["item_id", "available", "popularity"])
def test_a_catalogue_without_a_column_or_with_a_gap_in_it_is_refused(
    tmp_path: Path, column: str
) -> None:
    """A gap in the ids, or in what may be sold, is no item."""
    catalogue = Catalogue(
        item_ids=["a", "b"],
        titles=[None, "B"],
        categories=[[], ["cups"]],
        available=np.array([True, False]),
        popularity=np.array([1, 2]),
    )
    catalogue.save(tmp_path)
    path = tmp_path / "catalogue.parquet"
    whole = pq.read_table(path)
    place = whole.schema.get_field_index(column)
    kind = SCHEMA.field(column).type
    gap = pa.array([None, whole[column][1].as_py()], kind)
    pq.write_table(whole.set_column(place, pa.field(column, kind), gap), path)
    with pytest.raises(BundleError, match=f"1 of 2 items have no {column}"):
        load_catalogue(tmp_path)
    pq.write_table(whole.remove_column(place), path)
    with pytest.raises(BundleError, match=f"2 of 2 items have no {column}|is unreadable"):
        load_catalogue(tmp_path)
