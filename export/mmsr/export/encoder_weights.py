"""The encoders' graphs beside their weights, read again from where the features had them.

A hash of a graph says that it is what was converted; this, that it is what should have been.
Numbers of a graph are looked for in the weights: bit for bit, or within rounding where the
converter works a batch normalisation into the convolution before it. What it computes from
weights in another way cannot be told: that is counted, and left to the comparison of answers.
"""

# C channels

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mmsr.bundle.errors import BundleError
from mmsr.bundle.files import sha256_json
from mmsr.bundle.manifest import Manifest
from mmsr.bundle.repository import Repository
from mmsr.engine.encoders import text_precision_of
from mmsr.engine.runners.base import AnyArray
from mmsr.export.encoders import restore_encoder
from mmsr.export.initializers import arrays_of
from mmsr.export.int8_text import GRAPH, INT8
from mmsr.export.template import Source, Tensors, orders, same_numbers, tensors_of
from mmsr.training.run import TrainedRun

ENCODERS = ("image_encoder", "text_encoder")
# Of the largest entry: a product of two fp32 numbers, rounded here and there.
FUSED_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class WeightsCheck:
    """What of an encoder's graph was compared with its weights."""

    of: str = ""  # SHA-256 of the numbers in the graph, and of the weights
    exact: int = 0  # arrays of numbers that are a tensor of the weights, bit for bit
    fused: int = 0  # that are one times a batch normalisation
    other: int = 0  # that follow from weights in a way that is not known here, or from none
    wrong: str | None = None  # the first that stands where a tensor should, and is not that


KnownWeights = Mapping[str, WeightsCheck]  # by `of`


def check_encoder_weights(
    run: TrainedRun,
    folder: Path,
    manifest: Manifest,
    digests: Mapping[str, str],
    known: KnownWeights,
) -> dict[str, WeightsCheck]:
    """Compare each encoder in fp32; `digests` are those of the graphs' numbers.

    For what an earlier bundle has passed with the same numbers, `known`, no weights are read.
    """
    found = {}
    int8 = {GRAPH} if text_precision_of(manifest) == INT8 else set()
    for graph in sorted({*ENCODERS} & manifest.graphs.keys() - int8):
        spec = run.info.features[graph.removesuffix("_encoder")]
        of = sha256_json([digests[graph], spec["encoder"], spec["weights_sha256"]])
        if of in known:
            found[graph] = known[of]
        else:
            path = folder / manifest.graphs[graph].file
            found[graph] = compare_weights(path, restore_encoder(graph, spec), of)
    return found


def known_weights(repository: Repository) -> dict[str, WeightsCheck]:
    """Return the comparisons that the repository's bundles have passed."""
    found: dict[str, WeightsCheck] = {}
    for bundle_id in repository.ids():
        with suppress(BundleError, TypeError, AttributeError):  # damaged, or of another form
            stored = repository.manifest(bundle_id).parity.get("stored", {})
            recorded = stored.get("encoder_weights", {})
            checks = [WeightsCheck(**value) for value in recorded.values()]
            found |= {check.of: check for check in checks if check.wrong is None}
    return found


def compare_weights(path: Path, encoder: nn.Module, of: str = "") -> WeightsCheck:
    """Compare the numbers of the graph at `path` with the tensors of `encoder`."""
    tensors = tensors_of(encoder)
    held = {n: a for n, a in arrays_of(path).items() if a.dtype.kind == "f" and a.size > 1}
    sources = {name: _source(name, array, tensors) for name, array in held.items()}
    exact = {source.tensor for source in sources.values() if source is not None}
    rest = {name: held[name] for name, source in sources.items() if source is None}
    fused = {name for name, array in rest.items() if _is_fused(name, array, encoder, tensors)}
    present = {_hash(tensors[name]) for name in exact}  # some may be alike: all zeros
    absent = [t for t in tensors.values() if t.numel() > 1 and _hash(t) not in present]
    sizes = {tensor.numel() for tensor in absent}
    other = [name for name in rest if name not in fused]
    wrong = [name for name in other if name in tensors or rest[name].size in sizes]
    return WeightsCheck(
        of=of,
        exact=len(held) - len(rest),
        fused=len(fused),
        other=len(other),
        wrong=min(wrong, default=None),
    )


def _source(name: str, array: AnyArray, tensors: Tensors) -> Source | None:
    """Return which tensor an array is; one with a tensor's name and shape must be that."""
    named = tensors.get(name)
    if named is not None and tuple(named.shape) == array.shape:
        whole = Source(tensor=name, axes=tuple(range(named.ndim)))
        return whole if same_numbers(array, whole.array(tensors), 0.0) else None
    for tensor_name, tensor in tensors.items():
        if tensor.numel() != array.size:
            continue
        for axes in orders(tensor.ndim):
            source = Source(tensor=tensor_name, axes=axes)
            if tuple(tensor.shape[a] for a in axes) == array.shape and same_numbers(
                array, source.array(tensors), 0.0
            ):
                return source
    return None


def _is_fused(name: str, array: AnyArray, encoder: nn.Module, tensors: Tensors) -> bool:
    """Tell whether an array is a convolution's weight or bias with a batch normalisation in it."""
    weight = tensors.get(name)
    for scale_C, shift_C in _batch_norms(encoder):
        wanted: list[torch.Tensor] = []
        if weight is not None and weight.ndim > 1 and len(weight) == len(scale_C):
            wanted.append(weight * scale_C.reshape(-1, *[1] * (weight.ndim - 1)))
        elif array.size == len(scale_C):
            biases = [
                t for n, t in tensors.items() if n.endswith("bias") and t.shape == scale_C.shape
            ]
            wanted += [shift_C, *(bias * scale_C + shift_C for bias in biases)]
        if any(same_numbers(array, one.numpy(), FUSED_TOLERANCE) for one in wanted):
            return True
    return False


@torch.no_grad()
def _batch_norms(encoder: nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield scale and shift of each: [C] and [C]."""
    for part in encoder.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_var is not None:
            assert part.running_mean is not None
            scale_C = torch.rsqrt(part.running_var + part.eps)
            if part.affine:
                scale_C = scale_C * part.weight
            shift_C = -part.running_mean * scale_C
            yield scale_C, shift_C + part.bias if part.affine else shift_C


def _hash(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()
