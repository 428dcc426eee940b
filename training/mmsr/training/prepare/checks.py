"""The rules for ids and times: which rows of a block break one, and what the rule is called."""

# R rows of one block

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from mmsr.training.prepare.blocks import Block
from mmsr.training.prepare.ledger import TableLedger
from mmsr.training.prepare.values import Column

MAX_ID_BYTES = 512  # as in the bundle and on the wire
MALFORMED = "malformed row"

YEAR_10000_S = 253_402_300_799  # the last second before it

Problems = list[tuple[str, npt.NDArray[np.bool_]]]  # a reason and the rows [R] that it is of


def id_problems(ids: Column, kind: str) -> Problems:
    """Return the rules for the string array of ids [R]; `kind` is "user" or "item"."""
    bytes_R = pc.fill_null(pc.binary_length(ids), 0).to_numpy(zero_copy_only=False)
    return [
        (f"no {kind} id", bytes_R == 0),
        (f"{kind} id longer than {MAX_ID_BYTES} bytes", bytes_R > MAX_ID_BYTES),
    ]


def time_problems(seconds_R: npt.NDArray[np.float64], absent_R: npt.NDArray[np.bool_]) -> Problems:
    """Return the rules for times as `read_times` gives them."""
    return [
        ("no timestamp", absent_R),
        ("timestamp is no finite number or ISO date", ~np.isfinite(seconds_R)),
        ("negative timestamp", seconds_R < 0),
        ("timestamp after the year 9999: are these milliseconds?", seconds_R > YEAR_10000_S),
    ]


def count_rows(block: Block, ledger: TableLedger) -> None:
    """Count the block's rows, and what its reader says of them; list those that are no rows."""
    ledger.rows += len(block.row_R) + len(block.malformed)
    for reason, count in block.left_out.items():
        ledger.leave_out(reason, count)
    for row, reason, value in block.notes:
        ledger.note(reason, [row], [value])
    if block.malformed:
        rows, texts = zip(*block.malformed, strict=True)
        ledger.reject(MALFORMED, rows, texts)


def reject_problems(
    block: Block, checks: dict[str, Problems], ledger: TableLedger
) -> npt.NDArray[np.bool_]:
    """List each row under the first rule that it breaks; return [R]: the row breaks none.

    `checks` has the problems by the column that they are of.
    """
    good_R = np.ones(len(block.row_R), dtype=bool)
    for column, problems in checks.items():
        for reason, bad_R in problems:
            found_R = good_R & bad_R
            if found_R.any():
                ledger.reject(reason, block.row_R[found_R], block.shown(column, found_R))
                good_R &= ~bad_R
    return good_R
