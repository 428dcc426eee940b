"""The one thing the engine asks of an inference backend. Knows nothing of items or requests."""

from collections.abc import Mapping
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
