"""Candidates for a label: bundles that pass their proof, and are fit to serve or are not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, load_model_from_string
from support.tiny_bundle import (
    Sizes,
    make_twin,
    manifest_of,
    probe_arrays,
    seal,
    sequence_graph,
    write_files,
)

from mmsr.bundle.catalogue import load_catalogue
from mmsr.bundle.repository import Repository

Change = Callable[[Path], None]
Constants = dict[str, npt.NDArray[Any]]  # by name
SLOW_SIDE = 1024  # six billion operations a computation: above 10 ms on any core


def publish_candidate(
    repository: Repository, sizes: Sizes, change: Change | None = None, *, seed: int = 0
) -> str:
    """Publish the bundle of a seed, changed before its hashes are taken; return its id."""
    with repository.stage() as folder:
        write_files(folder, make_twin(sizes, seed), sizes)
        if change is not None:
            change(folder)
        seal(folder, manifest_of(sizes))
        return repository.publish(folder)


def retitle(folder: Path) -> None:
    """Call an item otherwise: another bundle with the same answers."""
    catalogue = load_catalogue(folder)
    catalogue.titles[0] = "A new title"
    catalogue.save(folder)


def burden(sizes: Sizes) -> Change:
    """Return what makes each computation multiply large matrices, and add nothing to a score."""
    constants: Constants = {
        "side": np.array([SLOW_SIDE, SLOW_SIDE], np.int64),
        "nothing": np.array([0], np.float32),
    }
    nodes = [
        helper.make_node("ReduceMean", ["states"], ["mean_11"], keepdims=1),
        helper.make_node("Expand", ["mean_11", "side"], ["matrix"]),
        helper.make_node("MatMul", ["matrix", "matrix"], ["second"]),
        helper.make_node("MatMul", ["second", "matrix"], ["third"]),
        helper.make_node("MatMul", ["third", "matrix"], ["product"]),
        helper.make_node("ReduceMin", ["product"], ["least_11"], keepdims=1),
        helper.make_node("Mul", ["least_11", "nothing"], ["added"]),
    ]
    return lambda folder: _rewrite(folder, sizes, nodes, constants)


def unproven_row(sizes: Sizes) -> int:
    """Return the row of an item that is in no history of the proof or the warm-up."""
    proven = probe_arrays(make_twin(sizes), sizes)["history"]
    rows = range(sizes.max_length + 1, sizes.items + 1)
    return next(row for row in rows if row not in proven)


def fail_at(sizes: Sizes, row: int) -> Change:
    """Return what makes a computation fail that reads the item of this row."""
    steps = np.zeros(sizes.capacity, np.int64)
    steps[row] = 1
    constants: Constants = {
        "steps": steps,
        "one_zero": np.zeros(1, np.float32),  # there is no second one
    }
    nodes = [
        helper.make_node("Gather", ["steps", "history"], ["step_BL"]),
        helper.make_node("Gather", ["one_zero", "step_BL"], ["zero_BL"]),
        helper.make_node("ReduceMax", ["zero_BL", "one"], ["added"], keepdims=1),
    ]
    return lambda folder: _rewrite(folder, sizes, nodes, constants)


def _rewrite(folder: Path, sizes: Sizes, nodes: list[Any], constants: Constants) -> None:
    """Add the tensor `added`, computed by more nodes, to all scores."""
    model = load_model_from_string(sequence_graph(sizes.width))
    *before, last = model.graph.node
    assert last.op_type == "TopK"
    last.input[0] = "burdened_BC"
    add = helper.make_node("Add", ["final_BC", "added"], ["burdened_BC"])
    del model.graph.node[:]
    model.graph.node.extend([*before, *nodes, add, last])
    types = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}
    model.graph.initializer.extend(
        helper.make_tensor(name, types[str(array.dtype)], array.shape, array.flatten())
        for name, array in constants.items()
    )
    (folder / "sequence.onnx").write_bytes(model.SerializeToString())
