"""The text of Triton's config.pbtxt for one ONNX graph of ours. Knows no files and no bundle.

Triton's own rules (its model_config.proto): every tensor has a batch dimension that is not written
down; a size that may vary is -1; a tensor with nothing but the batch dimension is written as [1]
and reshaped to nothing.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mmsr.bundle.manifest import GraphSpec, TensorSpec

TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
}


@dataclass(frozen=True, kw_only=True)
class WarmUpInput:
    """What one input is fed with before the model is ready, for one request."""

    dims: Sequence[int]
    file: str | None = None  # in the model's folder warmup/; None: zeros


def config_text(
    name: str, spec: GraphSpec, warm_up: Mapping[str, WarmUpInput], max_batch: int
) -> str:
    """Return config.pbtxt: dynamic batching, warm-up with one request and with a full batch."""
    blocks = [
        f"name: {json.dumps(name)}",
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {max_batch}",
        *(_tensor("input", tensor) for tensor in spec.inputs),
        *(_tensor("output", tensor) for tensor in spec.outputs),
        # One: ONNX Runtime shares one computation among all cores of the instance.
        _block("instance_group", ["count: 1", "kind: KIND_AUTO"]),
        "dynamic_batching { }",
        *(_warm_up(size, spec, warm_up) for size in sorted({1, max_batch})),
    ]
    return "\n".join(blocks) + "\n"


def _tensor(kind: str, tensor: TensorSpec) -> str:
    dims = [size if isinstance(size, int) else -1 for size in tensor.shape[1:]]
    lines = [f"name: {json.dumps(tensor.name)}", f"data_type: {TYPES[tensor.dtype]}"]
    if dims:
        return _block(kind, [*lines, f"dims: {dims}"])
    return _block(kind, [*lines, "dims: [1]", "reshape { shape: [] }"])


def _warm_up(size: int, spec: GraphSpec, warm_up: Mapping[str, WarmUpInput]) -> str:
    lines = [f'name: "{size} at once"', f"batch_size: {size}"]
    for tensor in spec.inputs:
        fed = warm_up[tensor.name]
        data = "zero_data: true" if fed.file is None else f"input_data_file: {json.dumps(fed.file)}"
        value = f"data_type: {TYPES[tensor.dtype]} dims: {list(fed.dims)} {data}"
        lines.append(_block("inputs", [f"key: {json.dumps(tensor.name)}", f"value {{ {value} }}"]))
    return _block("model_warmup", lines)


def _block(name: str, lines: Iterable[str]) -> str:
    inner = "\n".join(lines).replace("\n", "\n  ")
    return f"{name} {{\n  {inner}\n}}"
