"""Tensors of the Open Inference Protocol: messages to arrays and back. Knows no model by name.

What is wrong with a request is said in the words that Triton's users know from it.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmsr.engine.errors import InvalidRequest
from mmsr.oip import inference_pb2 as pb

AnyArray = npt.NDArray[Any]

BYTES = "BYTES"
ANY = -1  # a size that may vary
LENGTH = struct.Struct("<I")  # before each element of a raw BYTES tensor
# Datatype of the protocol -> numpy's name, and the field of InferTensorContents that carries it.
NUMBERS = {
    "BOOL": ("bool", "bool_contents"),
    "INT32": ("int32", "int_contents"),
    "INT64": ("int64", "int64_contents"),
    "UINT8": ("uint8", "uint_contents"),
    "FP32": ("float32", "fp32_contents"),
}
DATATYPES = {numpy_name: datatype for datatype, (numpy_name, _) in NUMBERS.items()}


class TensorKind(NamedTuple):
    """Name, datatype of the protocol and shape of an input or output; the batch comes first."""

    name: str
    datatype: str
    shape: tuple[int, ...]  # ANY where a size may vary
    spread: bool = False  # one element of shape [1] holds for every row of the batch


class Texts(NamedTuple):
    """A BYTES tensor: its elements in row-major order."""

    values: list[bytes]
    shape: tuple[int, ...]

    def rows(self) -> list[list[bytes]]:
        """Return the elements of a [B, L] tensor, a list a row."""
        rows, width = self.shape
        return [self.values[at * width : (at + 1) * width] for at in range(rows)]


Tensor = AnyArray | Texts


def read_inputs(
    request: pb.ModelInferRequest, kinds: Sequence[TensorKind], max_rows: int
) -> dict[str, Tensor]:
    """Return the request's inputs by name; `InvalidRequest` unless they are what `kinds` says."""
    model = request.model_name
    known = {kind.name: kind for kind in kinds}
    names = [tensor.name for tensor in request.inputs]
    for name in names:
        if name not in known:
            raise InvalidRequest(
                f"unexpected inference input '{name}' for model '{model}'; it reads "
                f"{', '.join(known)}"
            )
    if len(names) != len(known) or len(set(names)) != len(names):
        raise InvalidRequest(
            f"expected {len(known)} inputs but got {len(names)} inputs for model '{model}': each "
            f"of {', '.join(known)} once"
        )
    raws: Sequence[bytes | None] = request.raw_input_contents or [None] * len(names)
    if len(raws) != len(names):
        raise InvalidRequest(
            f"{len(raws)} raw_input_contents for {len(names)} inputs; expected one an input"
        )
    read = {}
    for tensor, raw in zip(request.inputs, raws, strict=True):
        kind = known[tensor.name]
        _check(tensor, kind, model)
        read[tensor.name] = _values(tensor, kind, raw)
    _check_rows(read, known, model, max_rows)
    return read


def _check(tensor: pb.ModelInferRequest.InferInputTensor, kind: TensorKind, model: str) -> None:
    """Compare type and shape with what the model expects."""
    if tensor.datatype != kind.datatype:
        raise InvalidRequest(
            f"inference input '{kind.name}' data-type is '{tensor.datatype}', but model '{model}' "
            f"expects '{kind.datatype}'"
        )
    if "shared_memory_region" in tensor.parameters:
        raise InvalidRequest(
            f"input '{kind.name}' lies in shared memory, which this server does not read; send "
            "its contents"
        )
    shape = tuple(tensor.shape)
    fits = len(shape) == len(kind.shape) and all(
        have >= 0 and want in (ANY, have) for want, have in zip(kind.shape, shape, strict=True)
    )
    if not fits and not (kind.spread and shape == (1,)):
        raise InvalidRequest(
            f"unexpected shape for input '{kind.name}' for model '{model}'. Expected "
            f"{list(kind.shape)}, got {list(shape)}"
        )


def _check_rows(
    read: dict[str, Tensor], known: dict[str, TensorKind], model: str, max_rows: int
) -> None:
    """See to it that every input has as many rows, and not too many."""
    counts = {
        name: tensor.shape[0]
        for name, tensor in read.items()
        if not (known[name].spread and len(tensor.shape) == 1)
    }
    if len(set(counts.values())) > 1:
        said = ", ".join(f"'{name}' {rows}" for name, rows in counts.items())
        raise InvalidRequest(f"the inputs differ in their rows: {said}; expected as many in each")
    rows = next(iter(counts.values()))
    if not 1 <= rows <= max_rows:
        raise InvalidRequest(
            f"inference request batch-size must be <= {max_rows} for '{model}', and at least 1; "
            f"got {rows}"
        )


def _values(
    tensor: pb.ModelInferRequest.InferInputTensor, kind: TensorKind, raw: bytes | None
) -> Tensor:
    shape = tuple(tensor.shape)
    count = math.prod(shape)
    if raw is None:
        return _typed(tensor.contents, kind, shape)
    if tensor.HasField("contents"):
        raise InvalidRequest(
            f"input '{kind.name}' has contents, and the request raw_input_contents; expected "
            "one of both"
        )
    if kind.datatype == BYTES:
        return Texts(split_bytes(raw, count, kind.name), shape)
    dtype = np.dtype(NUMBERS[kind.datatype][0])
    if len(raw) != count * dtype.itemsize:
        raise InvalidRequest(
            f"input byte size mismatch for input '{kind.name}'. Expected "
            f"{count * dtype.itemsize}, got {len(raw)}"
        )
    return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)


def _typed(contents: pb.InferTensorContents, kind: TensorKind, shape: tuple[int, ...]) -> Tensor:
    field = "bytes_contents" if kind.datatype == BYTES else NUMBERS[kind.datatype][1]
    values = getattr(contents, field)
    if len(values) != math.prod(shape):
        raise InvalidRequest(
            f"input '{kind.name}' has {len(values)} elements in {field}; expected "
            f"{math.prod(shape)}, as its shape {list(shape)} says"
        )
    if kind.datatype == BYTES:
        return Texts(list(values), shape)
    dtype = np.dtype(NUMBERS[kind.datatype][0])
    array = np.array(values, np.int64 if dtype.kind in "iu" else dtype)
    if dtype.kind in "iu" and array.size:
        bounds = np.iinfo(dtype)
        if array.min() < bounds.min or array.max() > bounds.max:
            raise InvalidRequest(f"input '{kind.name}' holds a value that is no {kind.datatype}")
    return array.astype(dtype, copy=False).reshape(shape)


def split_bytes(raw: bytes, count: int, name: str) -> list[bytes]:
    """Return the elements of a raw BYTES tensor of `count` elements."""
    values: list[bytes] = []
    at, end = 0, len(raw)
    while at + LENGTH.size <= end and len(values) < count:
        (length,) = LENGTH.unpack_from(raw, at)
        at += LENGTH.size
        if length > end - at:
            raise InvalidRequest(
                f"input '{name}': element {len(values)} is said to have {length} bytes, "
                f"{end - at} are left"
            )
        values.append(raw[at : at + length])
        at += length
    if len(values) != count or at != end:
        raise InvalidRequest(
            f"input '{name}' has {len(values)} elements and {end - at} bytes behind them; expected "
            f"{count} elements, each behind its length in 4 bytes"
        )
    return values


def join_bytes(values: Iterable[bytes]) -> bytes:
    """Return the elements as the raw contents of a BYTES tensor."""
    return b"".join(part for value in values for part in (LENGTH.pack(len(value)), value))


def add_output(
    response: pb.ModelInferResponse, kind: TensorKind, tensor: Tensor, *, raw: bool
) -> None:
    """Append an output to a response, its elements raw or in the field of their type."""
    output = response.outputs.add(name=kind.name, datatype=kind.datatype, shape=tensor.shape)
    if isinstance(tensor, Texts):
        if raw:
            response.raw_output_contents.append(join_bytes(tensor.values))
        else:
            output.contents.bytes_contents.extend(tensor.values)
        return
    dtype, field = NUMBERS[kind.datatype]
    if raw:
        little = np.ascontiguousarray(tensor, np.dtype(dtype).newbyteorder("<"))
        response.raw_output_contents.append(little.tobytes())
    else:
        getattr(output.contents, field).extend(tensor.ravel().tolist())


def wanted_outputs(request: pb.ModelInferRequest, kinds: Sequence[TensorKind]) -> list[TensorKind]:
    """Return the outputs that the request asks for, in its order; all of them if it names none."""
    if not request.outputs:
        return list(kinds)
    known = {kind.name: kind for kind in kinds}
    wanted = []
    for output in request.outputs:
        if output.name not in known:
            raise InvalidRequest(
                f"unexpected inference output '{output.name}' for model '{request.model_name}'; "
                f"it gives {', '.join(known)}"
            )
        if output.parameters:
            raise InvalidRequest(
                f"output '{output.name}' has the parameter {next(iter(output.parameters))!r}, "
                "which this server does not know"
            )
        wanted.append(known[output.name])
    return wanted
