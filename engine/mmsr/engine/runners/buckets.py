"""Few shapes for a device: batches are padded up to steps, their answers cut back. Pure arrays.

A CUDA graph, an execution context and their buffers are made once a shape, so there must be few.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mmsr.bundle.manifest import GraphSpec, TensorSpec
from mmsr.engine.runners.base import AnyArray

BATCH = "B"  # the dimension that every input of a request and every output begins with
ITEMS = "n"  # the same of the graph that makes items' rows
EXCLUDED = "E"
SCORED = "C"  # rows of the table that are scored
# The steps of a size, by dimension; for an input that is itself a size (k), by its name.
Sizes = Mapping[str, tuple[int, ...]]
Key = tuple[tuple[str, int], ...]  # one size a dimension: what a shape is known by


class TooLargeError(ValueError):
    """A batch has a size that no step reaches."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """To which sizes each dimension is padded, ascending."""

    dims: Sizes
    values: Sizes = field(default_factory=dict)
    batch: str = BATCH  # the dimension of what is computed together

    @property
    def largest_batch(self) -> int:
        """How many rows one call computes at most."""
        return self.dims[self.batch][-1]

    def batch_place(self, key: Key) -> int:
        """Return which step of the batch a key has, from 0."""
        return self.dims[self.batch].index(dict(key)[self.batch])


class Shaped(NamedTuple):
    """A batch whose sizes are steps."""

    key: Key
    inputs: dict[str, AnyArray]
    rows: int  # that were asked for
    results: int | None  # asked for in each row; None: the outputs have no such size


def shape_batch(
    spec: GraphSpec, steps: Steps, batch: Mapping[str, AnyArray], bound: Key = ()
) -> Shaped:
    """Pad a batch: rows by repeating the last one, other sizes by zeros, k by asking for more.

    `bound`: the sizes of the bound tables; no more results are asked for than rows are bound.
    `TooLargeError` names the size that no step reaches.
    """
    tensors = {tensor.name: tensor for tensor in spec.inputs}
    found: dict[str, int] = {}
    for name, array in batch.items():
        for dim, size in zip(tensors[name].shape, array.shape, strict=True):
            if isinstance(dim, str):
                found[dim] = max(size, found.get(dim, 0))
    sizes = {dim: step(dim, size, steps.dims) for dim, size in found.items()}
    asked = {name: int(batch[name][0]) for name in steps.values if name in batch}
    most = dict(bound).get(SCORED)
    values = {
        name: size if most is None else min(size, max(most, asked[name]))
        for name in asked
        for size in [step(name, asked[name], steps.values)]
    }
    inputs = {
        name: np.full_like(array, values[name])
        if name in values
        else padded(array, tensors[name], sizes, steps.batch)
        for name, array in batch.items()
    }
    key = tuple(sorted({**sizes, **values}.items()))
    return Shaped(key, inputs, found[steps.batch], next(iter(asked.values()), None))


def step(name: str, size: int, steps: Sizes) -> int:
    """Return the least step that holds `size`."""
    for one in steps[name]:
        if size <= one:
            return one
    raise TooLargeError(f"{name} {size}; at most {steps[name][-1]}")


def padded(array: AnyArray, tensor: TensorSpec, sizes: Mapping[str, int], batch: str) -> AnyArray:
    """Return an input in the sizes of its named dimensions."""
    shape = tuple(
        sizes[dim] if isinstance(dim, str) else size
        for dim, size in zip(tensor.shape, array.shape, strict=True)
    )
    if shape == array.shape:
        return array
    grown = np.zeros(shape, array.dtype)
    grown[tuple(slice(size) for size in array.shape)] = array
    if EXCLUDED in tensor.shape and array.shape[-1]:
        # 0 would be a line that may come back: what is excluded anyway is the padding.
        grown[: len(array), array.shape[-1] :] = array[:, -1:]
    if tensor.shape[0] == batch:
        # A row like another one: whatever the graph does with it, it does without an error.
        grown[array.shape[0] :] = grown[array.shape[0] - 1]
    return grown


def cut(
    outputs: Mapping[str, AnyArray], shaped: Shaped, per_result: frozenset[str]
) -> dict[str, AnyArray]:
    """Return copies of what was asked for of outputs [B, …], or [B, K] of those in `per_result`."""
    return {
        name: (
            array[: shaped.rows, : shaped.results] if name in per_result else array[: shaped.rows]
        ).copy()
        for name, array in outputs.items()
    }


def outputs_per_result(spec: GraphSpec, steps: Steps) -> frozenset[str]:
    """Return the outputs [B, K]: their last size is in no input, so it follows from k."""
    if not steps.values:
        return frozenset()
    known = {dim for tensor in spec.inputs for dim in tensor.shape}
    return frozenset(
        tensor.name
        for tensor in spec.outputs
        if isinstance(tensor.shape[-1], str) and tensor.shape[-1] not in known
    )


def pieces(
    spec: GraphSpec, steps: Steps, batch: Mapping[str, AnyArray]
) -> list[dict[str, AnyArray]]:
    """Return a batch as several, none with more rows than the largest step."""
    most = steps.largest_batch
    whole = {t.name for t in spec.inputs if not t.shape or t.shape[0] != steps.batch}
    rows = max(len(array) for name, array in batch.items() if name not in whole)
    if rows <= most:
        return [dict(batch)]
    return [
        {
            name: array if name in whole else array[begin : begin + most]
            for name, array in batch.items()
        }
        for begin in range(0, rows, most)
    ]


def joined(outputs: Sequence[Mapping[str, AnyArray]]) -> dict[str, AnyArray]:
    """Return the outputs of the pieces as those of the whole."""
    if len(outputs) == 1:
        return dict(outputs[0])
    return {name: np.concatenate([one[name] for one in outputs]) for name in outputs[0]}


def doubling(least: int, most: int) -> tuple[int, ...]:
    """Return the powers of two times `least` below `most`, and `most`."""
    sizes = []
    while least < most:
        sizes.append(least)
        least *= 2
    return (*sizes, most)
