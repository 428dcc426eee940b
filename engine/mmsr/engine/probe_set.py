"""`probe.npz`: histories and what PyTorch answered to them. Knows no runner and no torch."""

# P probe users, L longest probe history, K results stored, D output columns

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from mmsr.bundle.errors import BundleError, one_line
from mmsr.bundle.files import atomic_path
from mmsr.bundle.tables import UNREADABLE

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

PROBE = "probe.npz"
# Beside what a table alone may raise. RuntimeError: a member is encrypted, or packed in a way that
# Python does not know; MemoryError: an array says that it is larger than any machine.
BAD_ARCHIVE = (BadZipFile, KeyError, RuntimeError, MemoryError, zlib.error, struct.error)
FLOATS = ("state_PD", "top_scores_PK")
OF_RANK_1 = ("length_P", "target_P")


@dataclass(frozen=True, kw_only=True)
class ProbeSet:
    """Histories, and what PyTorch answered with every item eligible and nothing excluded."""

    history_PL: Rows  # oldest first, padded on the right with 0
    length_P: Rows
    target_P: Rows  # what came next in truth
    state_PD: Floats  # the score of row r is state @ item_outputs[r]
    top_rows_PK: Rows  # best first
    top_scores_PK: Floats

    def of(self, users: Rows) -> "ProbeSet":
        """Return some of the users, by their places."""
        return ProbeSet(**{name: array[users] for name, array in vars(self).items()})

    def save(self, folder: Path) -> None:
        """Write `folder/probe.npz`."""
        arrays = {_in_file(name): array for name, array in vars(self).items()}
        with atomic_path(folder / PROBE) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)


def _in_file(name: str) -> str:
    """Return an array's name in the file: that of the field without its shape."""
    return name.rpartition("_")[0]


def load_probe(folder: Path, items: int) -> ProbeSet:
    """Read `probe.npz`; `BundleError` if an array is missing, misshapen or out of range."""
    path = folder / PROBE
    names = ProbeSet.__dataclass_fields__
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            probe = ProbeSet(**{name: arrays[_in_file(name)] for name in names})
    except (*UNREADABLE, *BAD_ARCHIVE) as error:
        raise BundleError(
            f"{path} is unreadable ({one_line(error)}); export the model again"
        ) from None
    problem = _misshapen(probe) or _out_of_range(probe, items)
    if problem:
        raise BundleError(f"{path}: {problem}; export the model again")
    return probe


def _misshapen(probe: ProbeSet) -> str | None:
    users = len(probe.length_P)
    for name, array in vars(probe).items():
        wanted = np.float32 if name in FLOATS else np.int64
        rank = 1 if name in OF_RANK_1 else 2
        if array.dtype != wanted or array.ndim != rank or len(array) != users:
            return f"{name} is {array.dtype} {list(array.shape)} for {users} users"
    if users == 0 or probe.top_rows_PK.shape != probe.top_scores_PK.shape:
        return f"{users} users, top rows {probe.top_rows_PK.shape}, expected at least one"
    return None


def _out_of_range(probe: ProbeSet, items: int) -> str | None:
    for what, rows, least in (
        ("history", probe.history_PL, 0),
        ("target", probe.target_P, 1),
        ("best answer", probe.top_rows_PK, 1),
    ):
        if rows.min() < least or rows.max() > items:
            return f"a {what} has rows outside {least} to {items}"
    if probe.length_P.min() < 1 or probe.length_P.max() > probe.history_PL.shape[1]:
        return f"a length is outside 1 to {probe.history_PL.shape[1]}"
    return None
