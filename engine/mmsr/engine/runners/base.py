"""The one thing the engine asks of an inference backend. Knows nothing of items or requests."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mmsr.bundle.manifest import GraphSpec, TensorSpec

AnyArray = npt.NDArray[Any]


class Runner(Protocol):
    """Computes one graph. One call at a time: whoever owns it runs it in one thread."""

    @property
    def name(self) -> str:
        """What computes, for logs and reports: "ONNX Runtime CPUExecutionProvider"."""

    @property
    def spec(self) -> GraphSpec:
        """The inputs and outputs of the graph."""

    def bind(self, name: str, array: AnyArray) -> None:
        """Use `array` for input `name` in every later `run`, until bound anew.

        For the large tables. The array is not copied where the device allows that, so its owner
        must not change it while `run` computes. float32 for a half input is converted, once.
        """

    def write_rows(
        self, name: str, rows: Sequence[int], values: AnyArray, *, axis: int = 0
    ) -> None:
        """Overwrite `rows` [n] of the bound input `name` for every later `run`.

        `values`: as the bound array, with n in place of its size along `axis` (0, or 1 of a matrix
        whose columns are the rows, as `item_codes`). Nothing else of the table is copied. Rows
        beyond those that are bound now are written where the runner has them of an earlier `bind`
        of the same memory, and are left out elsewhere.
        """

    def run(self, batch: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Compute all outputs from the bound inputs and those of `batch`."""

    def close(self) -> None:
        """Free the backend's memory; no call may follow."""


def as_input(spec: TensorSpec, array: AnyArray) -> AnyArray:
    """Return float32 in the half precision of the input; any other array as it is.

    What half cannot hold becomes infinite: the export refuses such tables.
    """
    if spec.dtype != "float16" or array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        return array.astype(np.float16)


def check_tensor(spec: TensorSpec, array: AnyArray) -> None:
    """Raise `ValueError` unless the array has the spec's element type, rank and fixed sizes."""
    fits = len(spec.shape) == array.ndim and all(
        isinstance(want, str) or want == have
        for want, have in zip(spec.shape, array.shape, strict=True)
    )
    if not fits or array.dtype != np.dtype(spec.dtype):
        raise ValueError(
            f"input {spec.name!r}: {array.dtype} {list(array.shape)}, "
            f"expected {spec.dtype} {list(spec.shape)}"
        )


def check_rows(
    name: str, shape: tuple[int, ...], rows: Sequence[int], values: AnyArray, axis: int
) -> None:
    """Raise `ValueError` unless `values` are these rows of a table of that shape, along `axis`."""
    if not 0 <= axis < min(2, len(shape)):
        raise ValueError(f"input {name!r} of shape {list(shape)} has no rows along axis {axis}")
    expected = (*shape[:axis], len(rows), *shape[axis + 1 :])
    if values.shape != expected:
        raise ValueError(f"input {name!r}: {list(values.shape)}, expected {list(expected)}")
    if len(rows) and min(rows) < 0:
        raise ValueError(f"input {name!r} has rows from 0 on, not {min(rows)}")
