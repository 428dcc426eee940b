"""A table written row by row is the file that numpy would have written of it at once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmsr.export.row_file import RowFile


def test_it_is_byte_for_byte_what_numpy_saves_with_zeros_below(tmp_path: Path) -> None:
    rows = torch.arange(12, dtype=torch.float32).reshape(4, 3)
    with RowFile(tmp_path / "by-row.npy", 6, 3) as file:
        file.append(rows[:1])
        file.append(rows[1:])
    np.save(tmp_path / "at-once.npy", np.pad(rows.numpy(), ((0, 2), (0, 0))))
    assert (tmp_path / "by-row.npy").read_bytes() == (tmp_path / "at-once.npy").read_bytes()


def test_what_is_no_float32_or_lies_otherwise_in_memory_is_written_as_one(tmp_path: Path) -> None:
    rows = torch.arange(6, dtype=torch.float64).reshape(2, 3).T
    with RowFile(tmp_path / "rows.npy", 3, 2) as file:
        file.append(rows)
    assert np.array_equal(np.load(tmp_path / "rows.npy"), rows.numpy().astype(np.float32))


@pytest.mark.parametrize("shape", [(3, 2), (1, 3)])
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, shape: tuple[int, int]) -> None:
    with (
        RowFile(tmp_path / "rows.npy", 2, 2) as file,
        pytest.raises(ValueError, match="for 2 rows of 2 columns"),
    ):
        file.append(torch.zeros(shape))


def test_rows_that_nobody_appends_have_their_blocks(tmp_path: Path) -> None:
    """On a full disk, one that is missing would end whoever maps the table."""
    with RowFile(tmp_path / "rows.npy", 10_000, 16) as file:
        file.append(torch.ones(2, 16))
    found = (tmp_path / "rows.npy").stat()
    assert found.st_blocks * 512 >= found.st_size
    assert not np.load(tmp_path / "rows.npy")[2:].any()
