"""Faults of an export, put into a copy of a good bundle at a random place.

Each function changes files of the folder that it is given; the files are links to the good ones,
so each is replaced and never written through. A change that is not felt is no fault: another
place is drawn.
"""

# N items, W columns

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from support.graph_effect import effect

from mmsr.bundle.catalogue import load_catalogue
from mmsr.bundle.manifest import describe_files, load_manifest
from mmsr.export.initializers import digest_of, initializer_hashes

Random = np.random.Generator
Fault = Callable[[Path, Random], str]  # changes a folder; says what it has changed
Tables = dict[str, npt.NDArray[np.float32]]
Tensor = onnx.TensorProto

# Of the largest output, and above what the gate allows: 1e-4 of a score, a cosine of 0.9999.
FELT = {"sequence.onnx": 1e-3, "explain.onnx": 1e-3, "item.onnx": 1e-3}
FELT_OF_A_FEATURE = 0.1
FELT_IN_A_TABLE = 1e-3
DRAWS = 500
TABLES = ("item_inputs", "item_outputs", "content", "ids")
TRAINED = ("sequence.onnx", "explain.onnx", "item.onnx")
ALL = (*TRAINED, "image_encoder.onnx", "text_encoder.onnx")


def linked_copy(good: Path, target: Path) -> Path:
    """Copy a bundle by hard links."""
    shutil.copytree(good, target, copy_function=os.link, dirs_exist_ok=True)
    return target


def seal(folder: Path, *, as_converted: bool = False) -> None:
    """Write the manifest anew, as if the export had written these files.

    `as_converted`: as if the conversion itself had gone wrong, so that hashes tell nothing.
    """
    manifest = load_manifest(folder)
    provenance = dict(manifest.provenance)
    if as_converted:
        provenance["weights"] = dict.fromkeys(provenance["weights"])
        provenance["initializers"] = {
            name: digest_of(initializer_hashes(folder / spec.file))
            for name, spec in manifest.graphs.items()
        }
    replace(manifest, files=describe_files(folder), provenance=provenance).save(folder)


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def change_graph(
    folder: Path, names: Sequence[str], random: Random, change: Callable[[Any, Random], str | None]
) -> str:
    """Change one of the graphs until it is felt; return what was changed."""
    for _ in range(DRAWS):
        path = folder / names[int(random.integers(len(names)))]
        model = onnx.load(path)
        done = change(model.graph, random)
        if done is None:
            continue
        trial = path.with_suffix(".trial")
        trial.write_bytes(model.SerializeToString())
        felt = effect(folder, path, trial)
        trial.unlink()
        if felt > FELT.get(path.name, FELT_OF_A_FEATURE):
            _replace(path, model.SerializeToString())
            return f"{path.name}: {done}"
    raise AssertionError(f"no change of {names} is felt in {DRAWS} draws")


def _floats(graph: Any, fits: Callable[[Any], bool]) -> list[Any]:
    return [t for t in graph.initializer if t.data_type == Tensor.FLOAT and t.dims and fits(t)]


def _pick(tensors: list[Any], random: Random) -> Any:
    return tensors[random.integers(len(tensors))] if tensors else None


def _assign(tensor: Any, array: npt.NDArray[Any]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def flip_a_sign(graph: Any, random: Random) -> str | None:
    """Turn one number of one tensor."""
    tensor = _pick(_floats(graph, lambda t: True), random)
    array = numpy_helper.to_array(tensor).copy()
    place = tuple(int(random.integers(n)) for n in array.shape)
    if array[place] == 0:
        return None
    array[place] *= -1
    _assign(tensor, array)
    return f"sign of {tensor.name}{list(place)}"


def nudge_a_weight(graph: Any, random: Random) -> str:
    """Change one number of a tensor by a millionth of it or less; return the tensor's name."""
    tensor = _pick(_floats(graph, lambda t: bool(numpy_helper.to_array(t).any())), random)
    array = numpy_helper.to_array(tensor).copy()
    place = tuple(int(axis[0]) for axis in np.nonzero(array))
    array[place] = np.nextafter(array[place], np.inf)
    _assign(tensor, array)
    return str(tensor.name)


def drop_a_bias(graph: Any, random: Random) -> str | None:
    """Set one bias to zero."""
    tensor = _pick(_floats(graph, lambda t: t.name.endswith("bias")), random)
    if tensor is None or not numpy_helper.to_array(tensor).any():
        return None
    _assign(tensor, np.zeros(tensor.dims, np.float32))
    return f"bias {tensor.name}"


def swap_axes(graph: Any, random: Random) -> str | None:
    """Transpose a square matrix, or exchange two axes of a transposition."""
    nodes = [node for node in graph.node if node.op_type == "Transpose"]
    square = _floats(graph, lambda t: len(t.dims) == 2 and t.dims[0] == t.dims[1] > 1)
    if nodes and random.random() < 0.3:
        node = nodes[random.integers(len(nodes))]
        order = node.attribute[0].ints
        one, other = random.choice(len(order), 2, replace=False)
        order[one], order[other] = order[other], order[one]
        return f"axes of {node.name} {list(order)}"
    tensor = _pick(square, random)
    if tensor is None:
        return None
    _assign(tensor, numpy_helper.to_array(tensor).T)
    return f"axes of {tensor.name}"


def exchange_colours(graph: Any, random: Random) -> str:
    """Read blue where red is: in the pixels, behind the scaling, or in the first filters."""
    way = random.integers(3)
    if way == 2:
        tensor = _floats(graph, lambda t: len(t.dims) == 4 and t.dims[1] == 3)[0]
        _assign(tensor, numpy_helper.to_array(tensor)[:, ::-1])
        return "blue for red in the filters"
    source, kind = (("pixels", "Cast"), ("div", "Sub"))[way]
    [reader] = [n for n in graph.node if n.op_type == kind and source in n.input]
    graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "bgr"))
    swap = helper.make_node("Gather", [source, "bgr"], ["swapped"], axis=3)
    reader.input[list(reader.input).index(source)] = "swapped"
    graph.node.insert(list(graph.node).index(reader), swap)
    return f"blue for red in {source}"


def drop_a_normalisation(graph: Any, random: Random) -> str | None:
    """Leave out a mean, a deviation, the scale of the pixels, or a whole layer norm."""
    norms = [node for node in graph.node if node.op_type == "LayerNormalization"]
    neutral = {"mean_C": 0, "std_C": 1, "mean_F": 0, "std_F": 1, "scalar_tensor_default": 1}
    known = [t for t in graph.initializer if t.name.rpartition(".")[2] in neutral]
    if norms and (not known or random.random() < 0.5):
        node = norms[random.integers(len(norms))]
        for other in graph.node:
            for place, name in enumerate(other.input):
                if name == node.output[0]:
                    other.input[place] = node.input[0]
        return f"layer norm {node.name}"
    tensor = _pick(known, random)
    if tensor is None:
        return None
    value = neutral[tensor.name.rpartition(".")[2]]
    _assign(tensor, np.full(tuple(tensor.dims), value, np.float32))
    return f"normalisation {tensor.name}"


def rows_of(other: Tables) -> Fault:
    """Return the fault that some rows of some tables, or all, are those of another checkpoint."""

    def apply(folder: Path, random: Random) -> str:
        while True:
            name = TABLES[random.integers(len(TABLES))]
            rows = len(other[name])
            begin, end = np.sort(random.integers(0, rows + 1, 2))
            table = np.load(folder / f"tables/{name}.npy")
            before = table.copy()
            table[begin:end] = other[name][begin:end]
            if np.abs(table - before).max() > FELT_IN_A_TABLE * max(1.0, np.abs(before).max()):
                break
        (folder / f"tables/{name}.npy").unlink()
        np.save(folder / f"tables/{name}.npy", table)
        return f"rows {begin} to {end} of {name}"

    return apply


def swap_catalogue_rows(folder: Path, random: Random) -> str:
    """Exchange two items of the catalogue, whole or by id alone."""
    catalogue = load_catalogue(folder)
    one, other = random.choice(len(catalogue), 2, replace=False).tolist()
    fields = ["item_ids"] if random.random() < 0.5 else [*vars(catalogue)]
    changed: dict[str, Any] = {}
    for name in fields:
        column = list(getattr(catalogue, name))
        column[one], column[other] = column[other], column[one]
        array = isinstance(getattr(catalogue, name), np.ndarray)
        changed[name] = np.array(column) if array else column
    (folder / "catalogue.parquet").unlink()
    replace(catalogue, **changed).save(folder)
    return f"rows {one} and {other} of the catalogue ({len(fields)} columns)"


def switch_items_off(folder: Path, random: Random) -> str:
    """Call one or some items not available; the rest of the catalogue is as it was."""
    catalogue = load_catalogue(folder)
    count = int(random.integers(1, len(catalogue))) if random.random() < 0.7 else 1
    chosen = random.choice(len(catalogue), count, replace=False)
    available = catalogue.available.copy()
    available[chosen] = False
    (folder / "catalogue.parquet").unlink()
    replace(catalogue, available=available).save(folder)
    return f"{count} items not available"


def misstate(folder: Path, random: Random) -> str:
    """Say something else in one field of the manifest that the server obeys."""
    manifest = load_manifest(folder)
    told = {
        "exclude_seen": manifest.exclude_seen,
        "max_length": manifest.max_length,
        "features": json.loads(json.dumps(manifest.features)),
    }
    places = [*_leaves(told)]
    *path, key = places[int(random.integers(len(places)))]
    holder: Any = told
    for name in path:
        holder = holder[name]
    before, holder[key] = holder[key], _otherwise(holder[key])
    replace(manifest, **told).save(folder)
    return f"{'.'.join([*path, key])}: {before!r} is {holder[key]!r}"


def _leaves(told: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, value in told.items():
        if isinstance(value, dict):
            yield from ((key, *path) for path in _leaves(value))
        else:
            yield (key,)


def _otherwise(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value[1:], *value[:1]] if len(set(map(str, value))) > 1 else [*value, *value, "x"]
    return "bogus"  # a text, or what is not there


def move_data_out(path: Path) -> Path:
    """Keep a graph's larger tensors in a file beside it; return that file."""
    model = onnx.load(path)
    data = path.with_name(f"{path.name}.data")
    path.unlink()
    onnx.save_model(model, path, save_as_external_data=True, location=data.name, size_threshold=256)
    return data


def cut_external_data(folder: Path, random: Random) -> str:
    """Cut the file that a graph's tensors, or a table's rows, lie in."""
    if random.random() < 0.7:
        path = move_data_out(folder / ALL[random.integers(len(ALL))])
    else:
        path = folder / f"tables/{TABLES[random.integers(len(TABLES))]}.npy"
    content = path.read_bytes()
    kept = int(random.integers(len(content)))
    _replace(path, content[:kept])
    return f"{path.name} cut to {kept} of {len(content)} bytes"


def take_another_tokenizer(folder: Path, random: Random) -> str:
    """Exchange two words of the vocabulary, or keep capitals, or cut earlier."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    way = random.integers(3)
    if way == 0:
        vocabulary = tokenizer["model"]["vocab"]
        one, other = random.choice(sorted(vocabulary), 2, replace=False).tolist()
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
        done = f"words {one!r} and {other!r}"
    elif way == 1:
        tokenizer["normalizer"]["lowercase"] = False
        done = "capitals kept"
    else:
        tokenizer["truncation"]["max_length"] = int(random.integers(3, 16))
        done = f"cut to {tokenizer['truncation']['max_length']}"
    _replace(path, json.dumps(tokenizer).encode())
    return f"tokenizer: {done}"
