"""A converted graph without its weights: which tensor of the module each of them is.

A graph is converted once, from a module that holds random numbers. No two of its tensors hold the
same ones, so the bytes of an initializer say which tensor it is, transposed or not; and no number
is a 0 or 1 that the converter could have made use of: the graph holds for any weights. What is
left are constants of the architecture. Weights are then written into the graph, tonight's as well
as those of any later night. Knows nothing of repositories and of what is allowed.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.runners.base import AnyArray
from mmsr.export.initializers import Hashes, hash_of, tensors_of_graph
from mmsr.export.onnx_file import Conversion, ExportError, describe

SEED = 0
MOST_AXES = 4  # of a tensor that may be transposed: 4! orders are tried
SOURCES = "mmsr.sources"  # the key of a template's metadata
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)

Tensors = dict[str, torch.Tensor]


class NotATemplateError(ExportError):
    """Weights of a later night cannot be written into this graph; it is converted each time."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the numbers of an initializer come from."""

    tensor: str  # of the module, by name
    axes: tuple[int, ...]  # the order of its axes

    def array(self, tensors: Mapping[str, torch.Tensor]) -> AnyArray:
        """Return the numbers; `ExportError` if the module has no such tensor."""
        tensor = tensors.get(self.tensor)
        if tensor is None or tensor.ndim != len(self.axes):
            raise ExportError(f"the model has no tensor {self.tensor} of {len(self.axes)} axes")
        array: AnyArray = tensor.detach().cpu().permute(self.axes).contiguous().numpy()
        return array


Sources = dict[str, Source]  # initializer -> what it holds


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a manifest says of the weights in a graph: enough to compare them with a model's."""

    structure: str  # SHA-256 of everything else in the graph
    sources: Sources

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"structure": self.structure, "sources": sources_to_json(self.sources)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned."""
        return cls(structure=value["structure"], sources=sources_from_json(value["sources"]))


def sources_to_json(sources: Sources) -> dict[str, Any]:
    """Return plain values."""
    return {name: [source.tensor, list(source.axes)] for name, source in sources.items()}


def sources_from_json(value: Mapping[str, Any]) -> Sources:
    """Read what `sources_to_json` returned."""
    return {name: Source(tensor=t, axes=tuple(axes)) for name, (t, axes) in value.items()}


@dataclass(frozen=True, kw_only=True)
class Template:
    """A graph whose weights are left out, and where each comes from."""

    graph: onnx.ModelProto
    sources: Sources

    def fill(self, module: nn.Module, path: Path) -> tuple[GraphSpec, Weights]:
        """Write the graph with the module's weights; return what the manifest says of it."""
        model, tensors = onnx.ModelProto(), tensors_of(module)
        model.CopyFrom(self.graph)
        for initializer in model.graph.initializer:
            if initializer.name in self.sources:
                array = self.sources[initializer.name].array(tensors)
                _put(initializer, array)
        onnx.save(model, path)
        structure = structure_of(path, self.sources)
        return describe(path), Weights(structure=structure, sources=self.sources)

    def to_bytes(self) -> bytes:
        """Return what `from_bytes` reads."""
        model = onnx.ModelProto()
        model.CopyFrom(self.graph)
        text = json.dumps(sources_to_json(self.sources), sort_keys=True)
        model.metadata_props.add(key=SOURCES, value=text)
        return bytes(model.SerializeToString(deterministic=True))

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read a template."""
        model = onnx.ModelProto.FromString(content)
        [text] = [entry.value for entry in model.metadata_props if entry.key == SOURCES]
        del model.metadata_props[:]  # the exporter's own are gone already
        return cls(graph=model, sources=sources_from_json(json.loads(text)))


def _put(initializer: TensorProto, array: AnyArray) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(initializer.data_type)
    if array.size != math.prod(initializer.dims) or array.dtype != dtype:
        raise ExportError(
            f"initializer {initializer.name}: {array.dtype} {list(array.shape)}, expected "
            f"{dtype} {list(initializer.dims)}"
        )
    initializer.raw_data = array.tobytes()


def tensors_of(module: nn.Module) -> Tensors:
    """Return the floating-point parameters and buffers by name; one that is shared, once."""
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    """Give every tensor of the module numbers that no other has."""
    random = torch.Generator().manual_seed(SEED)
    for tensor in tensors_of(module).values():
        tensor.copy_(torch.randn(tensor.shape, generator=random))


def make_template(conversion: Conversion, path: Path) -> Template:
    """Convert a module, whose numbers are replaced by random ones, by way of the file `path`.

    `NotATemplateError` if some of the graph's numbers follow from weights in another way than by
    an order of axes, or could do so.
    """
    randomise(conversion.module)
    conversion.write(path)
    model = onnx.load(path)
    sources = find_sources(model.graph, tensors_of(conversion.module))
    for initializer in model.graph.initializer:
        if initializer.name in sources:
            initializer.ClearField("raw_data")  # no stale number can stay: there is none
    return Template(graph=model, sources=sources)


def find_sources(graph: onnx.GraphProto, tensors: Tensors) -> Sources:
    """Return what each initializer holds of `tensors`; those of one number may be constants."""
    known = _by_bytes(tensors)
    sources: Sources = {}
    for initializer in graph.initializer:
        if initializer.data_type not in FLOATS:
            continue
        candidates = known.get(numpy_helper.to_array(initializer).tobytes(), [])
        if len({source.tensor for source in candidates}) > 1:
            names = ", ".join(source.tensor for source in candidates)
            raise NotATemplateError(f"{initializer.name} may be any of {names}")
        if candidates:
            sources[initializer.name] = candidates[0]
        elif math.prod(initializer.dims) > 1:
            raise NotATemplateError(f"{initializer.name} is computed from weights, or may be")
    _require_complete(graph, tensors, sources)
    return sources


def _require_complete(graph: onnx.GraphProto, tensors: Tensors, sources: Sources) -> None:
    """Refuse what the initializers do not show: numbers in nodes, and single ones worked in."""
    plain = {tensor.name for tensor in graph.initializer}
    for name, tensor in tensors_of_graph(graph).items():
        inside = name not in plain and tensor.data_type in FLOATS
        if inside and math.prod(tensor.dims) > 1:
            raise NotATemplateError(f"node {name} holds numbers that may follow from weights")
    found = {source.tensor for source in sources.values()}
    single = [name for name, tensor in tensors.items() if tensor.numel() == 1]
    if lost := [name for name in single if name not in found]:
        raise NotATemplateError(f"{lost[0]} may be part of another constant")


def _by_bytes(tensors: Tensors) -> dict[bytes, list[Source]]:
    found: dict[bytes, list[Source]] = {}
    for name, tensor in tensors.items():
        seen: set[bytes] = set()
        for axes in orders(tensor.ndim):
            source = Source(tensor=name, axes=axes)
            content = source.array({name: tensor}).tobytes()
            if content not in seen:  # [1, n] and [n, 1] are the same bytes
                seen.add(content)
                found.setdefault(content, []).append(source)
    return found


def orders(axes: int) -> Iterator[tuple[int, ...]]:
    """Yield the orders of that many axes, the plain one first."""
    plain = tuple(range(axes))
    yield from itertools.permutations(plain) if axes <= MOST_AXES else [plain]


def structure_of(path: Path, sources: Sources) -> str:
    """Hash everything in a graph but the numbers that `sources` names: nodes, shapes, constants."""
    model = onnx.load(path, load_external_data=False)
    rest: Hashes = {}
    for initializer in model.graph.initializer:
        rest[initializer.name] = (
            f"{initializer.data_type} {list(initializer.dims)}"
            if initializer.name in sources
            else hash_of(initializer, path.parent)
        )
    del model.graph.initializer[:]
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return digest.hexdigest()


def same_numbers(found: AnyArray, wanted: AnyArray, tolerance: float) -> bool:
    """Compare what a graph holds with a tensor; with a tolerance of 0, bit by bit.

    The tolerance is relative to max(1, largest finite entry), and each number may be rounded to
    either neighbour of its type; infinities must be the same.
    """
    wanted = wanted.reshape(found.shape) if wanted.size == found.size else wanted
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return False
    if tolerance == 0:
        return found.tobytes() == wanted.tobytes()
    finite = wanted[np.isfinite(wanted)]
    scale = max(1.0, float(np.abs(finite).max(initial=0.0)))
    step = float(ml_dtypes.finfo(found.dtype).eps)  # type: ignore[no-untyped-call]
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    return bool(np.allclose(found, wanted, rtol=step, atol=tolerance * scale))
