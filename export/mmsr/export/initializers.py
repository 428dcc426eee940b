"""What numbers an ONNX file holds, by hash: to tell a stale or damaged graph from a fresh one."""

import hashlib
import math
from pathlib import Path
from typing import Any

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
    try:
        graph = onnx.load(path, load_external_data=False).graph
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    tensors[f"{'/'.join(node.output)}:{attribute.name}"] = attribute.t
        return {name: _hash(tensor, path.parent) for name, tensor in tensors.items()}
    except (DecodeError, OSError, ValueError, TypeError, onnx.checker.ValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise ExportError(f"{path.name} is damaged ({reason}); nothing was published") from None


def _hash(tensor: onnx.TensorProto, folder: Path) -> str:
    outside = tensor.data_location == onnx.TensorProto.EXTERNAL
    content = _outside(tensor, folder) if outside else numpy_helper.to_array(tensor).tobytes()
    digest = hashlib.sha256(f"{tensor.data_type} {list(tensor.dims)} ".encode())
    digest.update(content)
    return digest.hexdigest()


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
