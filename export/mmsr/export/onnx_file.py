"""A torch module -> one ONNX file with named, dynamic dimensions."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.manifest import GraphSpec, TensorSpec

OPSET = 20  # 17 gives invalid models, 23's Attention does not build in TensorRT-RTX


class ExportError(MmsrError):
    """A graph cannot be converted, or does not agree with PyTorch."""


@dataclass(frozen=True, kw_only=True)
class Port:
    """One graph input: its name, an example, and the names of its dynamic dimensions by index.

    An example's dynamic dimensions must not be 0 or 1: tracing would take those as fixed.
    """

    name: str
    example: Tensor
    dynamic: dict[int, str]
    most: dict[int, int] | None = None  # upper bound of a dynamic dimension
    least: dict[int, int] | None = None  # lower bound: one found out in tracing traces it twice


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What is converted: a module with weights, its inputs, and the names of its outputs."""

    module: nn.Module
    ports: Sequence[Port]
    outputs: Sequence[str]
    finish: Callable[[Path], None] | None = None  # adds nodes to the converted graph

    def write(self, path: Path) -> GraphSpec:
        """Convert, and describe what was written."""
        convert(self.module, self.ports, self.outputs, path)
        if self.finish is not None:
            self.finish(path)
        return describe(path)


def convert(module: nn.Module, ports: Sequence[Port], outputs: Sequence[str], path: Path) -> None:
    """Write `path`; `ExportError` if a dimension that must vary got fixed in tracing."""
    dims: dict[str, torch.export.Dim] = {}
    for port in ports:
        for index, name in port.dynamic.items():
            least, most = (port.least or {}).get(index), (port.most or {}).get(index)
            dims.setdefault(name, torch.export.Dim(name, min=least, max=most))
    shapes = tuple({i: dims[name] for i, name in port.dynamic.items()} for port in ports)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")  # about the exporter's own insides
        logger.setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(),
            # Copies: two inputs that share one example tensor would become one in the graph.
            tuple(port.example.clone() for port in ports),
            dynamo=True,
            opset_version=OPSET,
            input_names=[port.name for port in ports],
            output_names=list(outputs),
            dynamic_shapes=_dynamic_shapes(module, shapes),
            verbose=False,
            optimize=True,
        )
        logger.setLevel(level)
        assert program is not None
        program.save(str(path), external_data=False)
    _drop_traces(path)
    _require_dynamic(describe(path), ports)


def _drop_traces(path: Path) -> None:
    """Remove the exporter's notes: source lines of this machine, which change the hash."""
    model = onnx.load(path)
    del model.metadata_props[:], model.graph.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
    for value in model.graph.value_info:
        del value.metadata_props[:]
    onnx.save(model, path)


def _dynamic_shapes(module: nn.Module, shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Nest the shapes as the arguments of `forward` are: its `*content` is one nested tuple.

    Where there is none, as in a model of ids alone, the exporter wants no tuple either.
    """
    code = module.forward.__code__
    plain = code.co_argcount - 1
    if not code.co_flags & 0x04 or len(shapes) == plain:  # CO_VARARGS
        return shapes
    return (*shapes[:plain], shapes[plain:])


def _require_dynamic(spec: GraphSpec, ports: Sequence[Port]) -> None:
    shapes = {tensor.name: tensor.shape for tensor in spec.inputs}
    for port in ports:
        for index, name in port.dynamic.items():
            if port.name not in shapes:
                raise ExportError(f"{spec.file}: input {port.name!r} is not used by the graph")
            found = shapes[port.name][index]
            if found != name:
                raise ExportError(
                    f"{spec.file}: dimension {index} of {port.name!r} became {found!r} instead of "
                    f"the dynamic {name!r}; the module fixes it while it is traced"
                )


def describe(path: Path) -> GraphSpec:
    """Return the graph's inputs and outputs as the manifest has them."""
    graph = onnx.load(path, load_external_data=False).graph
    return GraphSpec(
        file=path.name,
        inputs=tuple(_tensor(value) for value in graph.input),
        outputs=tuple(_tensor(value) for value in graph.output),
    )


def _tensor(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    shape = tuple(dim.dim_param or int(dim.dim_value) for dim in kind.shape.dim)
    return TensorSpec(name=value.name, dtype=dtype.name, shape=shape)
