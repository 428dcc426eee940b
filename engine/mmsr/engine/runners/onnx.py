"""ONNX Runtime as a runner. Knows graphs and arrays, nothing of items or requests."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from mmsr.bundle.errors import BundleError, one_line
from mmsr.bundle.manifest import GraphSpec, TensorSpec
from mmsr.engine.runners.base import AnyArray, as_input, check_rows, check_tensor

CPU = ("CPUExecutionProvider",)
ERRORS_ONLY = 3  # ONNX Runtime's log levels: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal
LOAD_ERRORS = (  # their only common class is Exception
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,
)
NUMPY_NAMES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(bool)": "bool",
}


class OnnxRunner:
    """One session with its inputs and outputs bound, so that tables are handed over once."""

    def __init__(self, session: Any, spec: GraphSpec) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._bound: dict[str, Any] = {}  # the OrtValues read the arrays' memory: keep both alive
        self._arrays: dict[str, AnyArray] = {}
        self._input = {tensor.name: tensor for tensor in spec.inputs}
        self._outputs = [tensor.name for tensor in spec.outputs]
        self.spec = spec
        self.name = f"ONNX Runtime {session.get_providers()[0]}"

    def bind(self, name: str, array: AnyArray) -> None:
        """Use `array` for input `name` from now on; on the CPU its memory is read in place."""
        array = as_input(self._input[name], array)
        check_tensor(self._input[name], array)
        if not array.flags.c_contiguous:
            raise ValueError(f"input {name!r}: the array is not contiguous and would be copied")
        value = ort.OrtValue.ortvalue_from_numpy(array)
        self._binding.bind_ortvalue_input(name, value)
        self._bound[name] = value
        self._arrays[name] = array

    def write_rows(
        self, name: str, rows: Sequence[int], values: AnyArray, *, axis: int = 0
    ) -> None:
        """Overwrite rows of the bound array, in its own memory unless that is read-only."""
        array = self._arrays[name]
        values = as_input(self._input[name], values)
        check_rows(name, array.shape, rows, values, axis)
        if not array.flags.writeable:
            self.bind(name, array.copy())
            array = self._arrays[name]
        at = np.asarray(rows, np.int64)
        bound = at < array.shape[axis]
        if axis == 0:
            array[at[bound]] = values[bound]
        else:
            array[:, at[bound]] = values[:, bound]

    def run(self, batch: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Compute all outputs; they are copies that the caller owns."""
        binding = self._binding
        for name, array in batch.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        # Anew each time: a bound output keeps the shape of the last run, and another is an error.
        for name in self._outputs:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        return dict(zip(self._outputs, binding.copy_outputs_to_cpu(), strict=True))

    def close(self) -> None:
        """Let go of the session and of the bound arrays."""
        self._bound.clear()
        self._arrays.clear()
        del self._binding, self._session


def open_onnx(
    path: Path, spec: GraphSpec, *, threads: int, providers: Sequence[str] = CPU
) -> OnnxRunner:
    """Load the graph at `path`; `BundleError` unless its inputs and outputs are those of `spec`.

    `threads` is how many threads share one operator of one computation.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = ERRORS_ONLY
    # Threads that spin for work take the core from gRPC: 2 threads on 2 busy cores were up to
    # 2.5x slower spinning than sleeping (batch 32, 12,000 items), and never faster.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(str(path), options, providers=list(providers))
    except LOAD_ERRORS as error:
        raise BundleError(
            f"{path} cannot be loaded ({one_line(error)}); export the model again"
        ) from None
    check_graph(path, spec, session)
    return OnnxRunner(session, spec)


def check_graph(path: Path, spec: GraphSpec, session: Any) -> None:
    """Raise `BundleError` unless a session's inputs and outputs are those of `spec`."""
    _compare(path, "input", spec.inputs, session.get_inputs())
    _compare(path, "output", spec.outputs, session.get_outputs())


def _compare(path: Path, what: str, specs: Sequence[TensorSpec], nodes: Sequence[Any]) -> None:
    expected = {spec.name: _described(spec.dtype, spec.shape) for spec in specs}
    found = {n.name: _described(NUMPY_NAMES.get(n.type, n.type), n.shape) for n in nodes}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise BundleError(
                f"{path}: {what} {name!r} is {found.get(name, 'not there')}, the manifest says "
                f"{expected.get(name, 'there is none')}; export the model again"
            )


def _described(dtype: str, shape: Sequence[int | str | None]) -> str:
    """Write type and shape with "?" for a size that may vary: its name does not matter."""
    return f"{dtype} [{', '.join(str(n) if isinstance(n, int) else '?' for n in shape)}]"
