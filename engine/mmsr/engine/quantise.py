"""Output vectors -> 8-bit codes, for graphs that choose candidates by them.

Symmetric and per item: row r is about scales[r] * codes[:, r]. The codes stand in columns, one an
item, as the integer product reads them (a table of rows would be transposed on every request:
1.9 times as long at 12,000 items, 1.4 times at 100,000, batch 1). Whoever writes a row of
`item_outputs` writes its column and its scale with it; spare rows are zero in all three.
"""

# n items, C table rows, D width

import numpy as np
import numpy.typing as npt

from mmsr.engine.runners.base import Runner

CODES, SCALES = "item_codes", "item_scales"
LARGEST_CODE = 127
ROWS_PER_BLOCK = 65_536  # bounds the memory beside the table

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]


def quantise_rows(outputs_nD: Floats) -> tuple[Codes, Floats]:
    """Return codes int8 [D, n] and scales float32 [n].

    An entry is off by at most half its item's scale. Entries that are no numbers become 0.
    """
    codes_Dn = np.empty((outputs_nD.shape[1], len(outputs_nD)), np.int8)
    scales_n = np.empty(len(outputs_nD), np.float32)
    for begin in range(0, len(outputs_nD), ROWS_PER_BLOCK):
        block = slice(begin, begin + ROWS_PER_BLOCK)
        rows_nD = np.nan_to_num(outputs_nD[block], posinf=0.0, neginf=0.0)
        largest_n = np.abs(rows_nD).max(axis=1, initial=0.0)
        scales_n[block] = largest_n / np.float32(LARGEST_CODE)
        # A scale that underflowed to 0 has nothing to say either.
        divisor_n = np.where(scales_n[block] > 0, scales_n[block], np.float32(np.inf))
        scaled_nD = np.rint(rows_nD / divisor_n[:, None])
        codes_Dn[:, block] = np.clip(scaled_nD, -LARGEST_CODE, LARGEST_CODE).astype(np.int8).T
    return codes_Dn, scales_n


def reads_codes(runner: Runner) -> bool:
    """Tell whether the runner's graph chooses candidates by codes."""
    return any(tensor.name == CODES for tensor in runner.spec.inputs)


def bind_outputs(runner: Runner, outputs_CD: Floats) -> None:
    """Bind a table of output vectors and, where the graph reads them, its codes made anew."""
    runner.bind("item_outputs", outputs_CD)
    if reads_codes(runner):
        codes_DC, scales_C = quantise_rows(outputs_CD)
        runner.bind(CODES, codes_DC)
        runner.bind(SCALES, scales_C)
