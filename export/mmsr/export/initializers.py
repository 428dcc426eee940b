"""What numbers an ONNX file holds, by hash: to tell a stale or damaged graph from a fresh one."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper

from mmsr.bundle.errors import BundleError
from mmsr.bundle.files import sha256_json
from mmsr.bundle.repository import Repository
from mmsr.export.onnx_file import ExportError

Hashes = dict[str, str]  # initializer -> SHA-256 of its type, shape and bytes


def initializer_hashes(path: Path) -> Hashes:
    """Hash every initializer and constant of a graph; external data are read tensor by tensor.

    `ExportError` if the file, or what it refers to, cannot be read whole.
    """
    with _readable(path):
        graph = onnx.load(path, load_external_data=False).graph
        tensors = tensors_of_graph(graph)
        return {name: hash_of(tensor, path.parent) for name, tensor in tensors.items()}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say in one line that a graph is damaged."""
    try:
        yield
    except (DecodeError, OSError, ValueError, TypeError, onnx.checker.ValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise ExportError(f"{path.name} is damaged ({reason}); nothing was published") from None


def tensors_of_graph(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return the initializers by name, and the tensors that nodes hold."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                tensors[f"{'/'.join(node.output)}:{attribute.name}"] = attribute.t
    return tensors


def hash_of(tensor: onnx.TensorProto, folder: Path) -> str:
    """Hash type, shape and bytes of a tensor of a graph in `folder`."""
    digest = hashlib.sha256(f"{tensor.data_type} {list(tensor.dims)} ".encode())
    digest.update(bytes_of(tensor, folder))
    return digest.hexdigest()


def bytes_of(tensor: onnx.TensorProto, folder: Path) -> bytes:
    """Return the bytes of a tensor of a graph in `folder`, wherever they lie."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _outside(tensor, folder)
    return numpy_helper.to_array(tensor).tobytes()


def _outside(tensor: onnx.TensorProto, folder: Path) -> bytes:
    """Read a tensor's bytes from the file that it names.

    onnx's own reader refuses files with several hard links, as bundles that share one have.
    """
    where = {entry.key: entry.value for entry in tensor.external_data}
    path = (folder / where.get("location", "")).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"tensor {tensor.name} lies outside of the bundle, in {path}")
    length = int(where["length"]) if "length" in where else -1
    with path.open("rb") as file:
        file.seek(int(where.get("offset", 0)))
        content = file.read(length)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    wanted = math.prod(tensor.dims) * dtype.itemsize
    if len(content) != wanted:
        raise ValueError(f"{len(content)} of {wanted} bytes of tensor {tensor.name}")
    return content


def arrays_of(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the numbers of every initializer; `ExportError` if the file cannot be read whole."""
    with _readable(path):
        graph = onnx.load(path, load_external_data=False).graph
        return {tensor.name: _array(tensor, path.parent) for tensor in graph.initializer}


def _array(tensor: onnx.TensorProto, folder: Path) -> npt.NDArray[Any]:
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    array: npt.NDArray[Any] = np.frombuffer(bytes_of(tensor, folder), dtype)
    return array.reshape(tuple(tensor.dims))


def digest_of(hashes: Hashes) -> str:
    """Return one hash of all of a graph's initializers: what a manifest keeps."""
    return sha256_json(hashes)


def recorded_digest(repository: Repository, graph: str, made_from: dict[str, Any]) -> str | None:
    """Return the digest of a conversion of `graph` from the same, if a bundle recorded one."""
    for bundle_id in reversed(repository.ids()):
        try:
            provenance = repository.manifest(bundle_id).provenance
        except BundleError:
            continue  # damaged, or of another format
        digest: str | None = provenance.get("initializers", {}).get(graph)
        if digest and provenance.get("made_from", {}).get(graph) == made_from:
            return digest
    return None
