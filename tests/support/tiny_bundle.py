"""A small real bundle: a true ONNX graph that honours the serving contract, and its numpy twin.

The model is one line: state = mean of the history's item inputs (first D columns). Everything
around it (eligibility, exclusion, top-K in the graph) is as in an exported model.
"""

# B batch, L history length, D output width, W input width, C table rows, N items, K results

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from mmsr.bundle.catalogue import Catalogue
from mmsr.bundle.manifest import GraphSpec, Manifest, TableSizes, TensorSpec, describe_files
from mmsr.bundle.repository import Repository
from mmsr.engine.items import bound_rows

INPUTS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "history": ("int64", ("B", "L")),
    "length": ("int64", ("B",)),
    "excluded": ("int64", ("B", "E")),
    "k": ("int64", (1,)),
    "item_inputs": ("float32", ("R", "W")),
    "item_outputs": ("float32", ("C", "D")),
}
OUTPUTS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "rows": ("int64", ("B", "K")),
    "scores": ("float32", ("B", "K")),
    "states": ("float32", ("B", "D")),
}
ONNX_TYPES = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}
PROBE_K = 20


@dataclass(frozen=True, kw_only=True)
class Sizes:
    items: int = 300
    spare: int = 20
    width: int = 16  # D
    extra_width: int = 4  # W - D
    max_length: int = 12
    probes: int = 40

    @property
    def capacity(self) -> int:
        return bound_rows(self.items + self.spare)


@dataclass(frozen=True, kw_only=True)
class Twin:
    """The same model in numpy, for brute force."""

    ids: list[str]
    available_N: npt.NDArray[np.bool_]
    popularity_N: npt.NDArray[np.int64]
    categories: list[list[str]]
    inputs_CW: npt.NDArray[np.float32]
    outputs_CD: npt.NDArray[np.float32]
    content_CD: npt.NDArray[np.float32]
    max_length: int

    @property
    def width(self) -> int:
        return int(self.outputs_CD.shape[1])

    def state(self, rows: npt.ArrayLike) -> npt.NDArray[np.float32]:
        read = np.asarray(rows, np.int64)[-self.max_length :]
        state: npt.NDArray[np.float32] = self.inputs_CW[read, : self.width].mean(axis=0)
        return state

    def recommend(
        self, history: Sequence[str], k: int, excluded: Sequence[str] = ()
    ) -> list[tuple[str, float]]:
        """Return (id, score), best first, from the full score vector."""
        place = {item_id: n for n, item_id in enumerate(self.ids)}
        rows = [place[item_id] + 1 for item_id in history if item_id in place]
        scores_N = self.outputs_CD[1 : len(self.ids) + 1] @ self.state(rows)
        barred = {place[item_id] for item_id in excluded if item_id in place}
        eligible = [n for n in np.argsort(-scores_N) if self.available_N[n] and n not in barred]
        return [(self.ids[n], float(scores_N[n])) for n in eligible[:k]]

    def popular(self, k: int, excluded: Sequence[str] = ()) -> list[str]:
        order = sorted(range(len(self.ids)), key=lambda n: (-int(self.popularity_N[n]), n))
        kept = [n for n in order if self.available_N[n] and self.ids[n] not in set(excluded)]
        return [self.ids[n] for n in kept[:k]]


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A repository with one bundle, and the numpy twin of its model."""

    root: Path
    folder: Path
    sizes: Sizes
    twin: Twin


def make_twin(sizes: Sizes, seed: int = 0) -> Twin:
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(1 + sizes.items + sizes.spare, sizes.width + sizes.extra_width))
    outputs = random.normal(size=(len(inputs), sizes.width))
    inputs, outputs = (
        np.pad(table, ((0, sizes.capacity - len(table)), (0, 0))) for table in (inputs, outputs)
    )
    inputs[0] = outputs[0] = 100.0  # padding that would win if it ever counted
    outputs[sizes.items + 1 :] = 100.0  # and so would a spare row
    return Twin(
        ids=[f"item-{n}" for n in range(sizes.items)],
        available_N=random.random(sizes.items) > 0.1,
        popularity_N=random.integers(0, 50, sizes.items),
        categories=[[f"kind-{n % 7}", f"shade-{n % 3}"][: n % 4] for n in range(sizes.items)],
        inputs_CW=inputs.astype(np.float32),
        outputs_CD=outputs.astype(np.float32),
        content_CD=content_of(outputs, sizes.items),
        max_length=sizes.max_length,
    )


def content_of(outputs: npt.NDArray[Any], items: int) -> npt.NDArray[np.float32]:
    """Return made-up content vectors: the output vectors turned round, spare rows zero."""
    content = outputs[:, ::-1].copy()
    content[items + 1 :] = 0.0
    return content.astype(np.float32)


def sequence_graph(width: int) -> bytes:
    """Return the serialised graph."""
    constants: dict[str, npt.NDArray[Any]] = {
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "width": np.array([width], np.int64),
        "never": np.array([-np.inf], np.float32),
        "range_start": np.array(0, np.int64),
        "range_step": np.array(1, np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["item_inputs", "history"], ["history_BLW"]),
        node("Slice", ["history_BLW", "zero", "width", "two"], ["history_BLD"]),
        node("Shape", ["history"], ["history_shape"]),
        node("Gather", ["history_shape", "range_step"], ["longest"]),
        node("Range", ["range_start", "longest", "range_step"], ["places_L"]),
        node("Unsqueeze", ["length", "one"], ["length_B1"]),
        node("Less", ["places_L", "length_B1"], ["real_BL"]),
        node("Cast", ["real_BL"], ["weight_BL"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["weight_BL", "two"], ["weight_BL1"]),
        node("Mul", ["history_BLD", "weight_BL1"], ["weighted_BLD"]),
        node("ReduceSum", ["weighted_BLD", "one"], ["sum_BD"], keepdims=0),
        node("Cast", ["length_B1"], ["count_B1"], to=TensorProto.FLOAT),
        node("Div", ["sum_BD", "count_B1"], ["states"]),
        node("Gemm", ["states", "item_outputs"], ["raw_BC"], transB=1),
        node("Shape", ["excluded"], ["excluded_shape"]),
        node("Expand", ["never", "excluded_shape"], ["never_BE"]),
        node("ScatterElements", ["raw_BC", "excluded", "never_BE"], ["final_BC"], axis=1),
        node("TopK", ["final_BC", "k"], ["scores", "rows"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "sequence",
        [_value(name, *what) for name, what in INPUTS.items()],
        [_value(name, *what) for name, what in OUTPUTS.items()],
        [_constant(name, array) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def _value(name: str, dtype: str, shape: tuple[int | str, ...]) -> Any:
    return helper.make_tensor_value_info(name, ONNX_TYPES[dtype], shape)


def _constant(name: str, array: npt.NDArray[Any]) -> Any:
    return helper.make_tensor(name, ONNX_TYPES[str(array.dtype)], array.shape, array.flatten())


def probe_arrays(twin: Twin, sizes: Sizes, seed: int = 1) -> dict[str, npt.NDArray[Any]]:
    """Return the probe set, answered by the twin with every item eligible."""
    random = np.random.default_rng(seed)
    length = random.integers(1, sizes.max_length + 1, sizes.probes)
    history = np.zeros((sizes.probes, sizes.max_length), np.int64)
    for line, size in zip(history, length, strict=True):
        line[:size] = random.integers(1, sizes.items + 1, size)
    state = np.stack([twin.state(line[:n]) for line, n in zip(history, length, strict=True)])
    scores = state @ twin.outputs_CD[1 : sizes.items + 1].T
    k = min(PROBE_K, sizes.items)
    order = np.argsort(-scores, axis=1)[:, :k]
    return {
        "history": history,
        "length": length.astype(np.int64),
        "target": random.integers(1, sizes.items + 1, sizes.probes),
        "state": state.astype(np.float32),
        "top_rows": order.astype(np.int64) + 1,
        "top_scores": np.take_along_axis(scores, order, 1).astype(np.float32),
    }


def graph_spec(file: str = "sequence.onnx") -> GraphSpec:
    def specs(what: dict[str, tuple[str, tuple[int | str, ...]]]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name=name, dtype=dtype, shape=shape) for name, (dtype, shape) in what.items()
        )

    return GraphSpec(file=file, inputs=specs(INPUTS), outputs=specs(OUTPUTS))


def manifest_of(sizes: Sizes) -> Manifest:
    return Manifest(
        max_length=sizes.max_length,
        exclude_seen=True,
        tables=TableSizes(
            items=sizes.items,
            capacity=sizes.capacity,
            input_width=sizes.width + sizes.extra_width,
            output_width=sizes.width,
        ),
        graphs={"sequence": graph_spec()},
        model={"kind": "mean of the history"},
        features={},
    )


def write_files(folder: Path, twin: Twin, sizes: Sizes) -> None:
    """Write every file but the manifest."""
    (folder / "tables").mkdir(parents=True)
    (folder / "sequence.onnx").write_bytes(sequence_graph(sizes.width))
    np.save(folder / "tables" / "item_inputs.npy", twin.inputs_CW)
    np.save(folder / "tables" / "item_outputs.npy", twin.outputs_CD)
    np.save(folder / "tables" / "content.npy", twin.content_CD)
    probe: dict[str, Any] = probe_arrays(twin, sizes)
    np.savez(folder / "probe.npz", **probe)
    Catalogue(
        item_ids=twin.ids,
        titles=[f"Title of {item_id}" for item_id in twin.ids],
        categories=twin.categories,
        available=twin.available_N,
        popularity=twin.popularity_N,
    ).save(folder)


def seal(folder: Path, manifest: Manifest) -> None:
    """Write the manifest with the hashes of what is there."""
    values = {**vars(manifest), "files": describe_files(folder)}
    Manifest(**values).save(folder)


def publish(root: Path, sizes: Sizes | None = None, seed: int = 0) -> Shop:
    """Publish a bundle as `stable` in a new repository at `root`."""
    sizes = sizes or Sizes()
    twin = make_twin(sizes, seed)
    repository = Repository(root)
    repository.create()
    with repository.stage() as folder:
        write_files(folder, twin, sizes)
        seal(folder, manifest_of(sizes))
        bundle_id = repository.publish(folder)
    repository.promote(bundle_id, "stable")
    return Shop(root=root, folder=repository.path(bundle_id), sizes=sizes, twin=twin)
