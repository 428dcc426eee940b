"""A Triton model repository: its configuration by Triton's own proto, its graph by ONNX Runtime."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from errno import ENOSPC
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from support.tiny_bundle import Shop, Sizes, make_twin, manifest_of, publish, seal, write_files
from support.tree import ROOT
from support.whole import assert_triton_whole, folders

from mmsr.bundle.catalogue import load_catalogue
from mmsr.bundle.errors import BundleError
from mmsr.bundle.files import read_json
from mmsr.bundle.manifest import GraphSpec, TensorSpec, load_manifest
from mmsr.bundle.repository import Repository
from mmsr.engine.opened import open_bundle
from mmsr.export import triton
from mmsr.export.triton import staged_triton, write_triton
from mmsr.export.triton_check import check_same_answers

# Run, not imported: Triton's own `inference` and ours cannot both be in one process.
PARSER = ROOT / "tests/support/parse_triton_config.py"
needs_tritons_proto = pytest.mark.skipif(
    find_spec("tritonclient") is None, reason="tritonclient asks for newer releases than we do"
)
SIZES = Sizes(items=50, spare=6, width=8, extra_width=2, max_length=7, probes=20)
OTHER_TOKENIZER = json.dumps({"model": {"vocab": {"a": 0, "b": 1, "c": 2}}})


def encoder(folder: Path, name: str, inputs: dict[str, tuple[str, list[Any]]]) -> GraphSpec:
    """Write a graph that has an encoder's face: a feature of 4 for each request."""
    types = {"uint8": TensorProto.UINT8, "int64": TensorProto.INT64}
    values = [helper.make_tensor_value_info(n, types[t], s) for n, (t, s) in inputs.items()]
    nodes = [helper.make_node("Shape", [values[0].name], ["b"], start=0, end=1)]
    nodes += [helper.make_node("Concat", ["b", "four"], ["shape"], axis=0)]
    nodes += [helper.make_node("ConstantOfShape", ["shape"], ["feature"])]
    feature = helper.make_tensor_value_info("feature", TensorProto.FLOAT, ["B", 4])
    four = helper.make_tensor("four", TensorProto.INT64, [1], [4])
    graph = helper.make_graph(nodes, name, values, [feature], [four])
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / f"{name}.onnx")
    return GraphSpec(
        file=f"{name}.onnx",
        inputs=tuple(TensorSpec(name=n, dtype=t, shape=tuple(s)) for n, (t, s) in inputs.items()),
        outputs=(TensorSpec(name="feature", dtype="float32", shape=("B", 4)),),
    )


def add(root: Path, seed: int = 0) -> Shop:
    """Publish a bundle with both encoders as `stable`."""
    repository = Repository(root)
    twin = make_twin(SIZES, seed)
    with repository.stage() as folder:
        write_files(folder, twin, SIZES)
        tokens = ("int64", ["B", "T"])
        manifest = manifest_of(SIZES)
        graphs = manifest.graphs | {
            "image_encoder": encoder(
                folder, "image_encoder", {"pixels": ("uint8", ["B", 6, 6, 3])}
            ),
            "text_encoder": encoder(
                folder, "text_encoder", {"input_ids": tokens, "attention_mask": tokens}
            ),
        }
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 1}}}))
        seal(folder, replace(manifest, graphs=graphs, features={"text": {"max_tokens": 12}}))
        bundle_id = repository.publish(folder, "stable")
    return Shop(root=root, folder=repository.path(bundle_id), sizes=SIZES, twin=twin)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return add(tmp_path / "repository")


def parsed(target: Path) -> dict[str, dict[str, Any]]:
    """Return every configuration under `target`, as Triton's proto reads it."""
    paths = sorted(str(path) for path in target.glob("*/config.pbtxt"))
    line = [sys.executable, str(PARSER), *paths]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return {config["name"]: config for config in json.loads(done.stdout)}


def tensors(config: dict[str, Any], kind: str) -> dict[str, tuple[Any, ...]]:
    return {t["name"]: (t["data_type"], t["dims"], t.get("reshape")) for t in config[kind]}


@needs_tritons_proto
def test_tritons_own_proto_reads_the_configuration(shop: Shop, tmp_path: Path) -> None:
    write_triton(shop.folder, tmp_path / "triton")
    configs = parsed(tmp_path / "triton")
    assert configs.keys() == {"sequence", "image_encoder", "text_encoder"}
    for name, config in configs.items():
        assert config["platform"] == "onnxruntime_onnx"
        assert config["max_batch_size"] >= 16
        assert config["instance_group"] == [{"count": 1}]  # KIND_AUTO is the proto's zero
        assert config["dynamic_batching"] == {}
        assert (tmp_path / "triton" / name / "1" / "model.onnx").is_file()
    assert tensors(configs["sequence"], "input") == {
        "history": ("TYPE_INT64", ["-1"], None),
        "length": ("TYPE_INT64", ["1"], {}),
        "excluded": ("TYPE_INT64", ["-1"], None),
        "k": ("TYPE_INT64", ["1"], None),
    }
    assert tensors(configs["sequence"], "output") == {
        "rows": ("TYPE_INT64", ["-1"], None),
        "scores": ("TYPE_FP32", ["-1"], None),
    }
    pixels = {"pixels": ("TYPE_UINT8", ["6", "6", "3"], None)}
    assert tensors(configs["image_encoder"], "input") == pixels
    assert tensors(configs["text_encoder"], "output") == {"feature": ("TYPE_FP32", ["4"], None)}


def session(model: Path) -> Any:
    return ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])


NUMPY = {"TYPE_INT64": np.int64, "TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32}


@needs_tritons_proto
def test_every_graph_takes_what_its_configuration_and_its_warm_up_say(
    shop: Shop, tmp_path: Path
) -> None:
    """As Triton does it: batch dimension first, one request's bytes repeated for the batch."""
    write_triton(shop.folder, tmp_path / "triton")
    for name, config in parsed(tmp_path / "triton").items():
        graph = session(tmp_path / "triton" / name / "1" / "model.onnx")
        assert {i.name for i in graph.get_inputs()} == {i["name"] for i in config["input"]}
        declared = tensors(config, "input")
        for warm_up in config["model_warmup"]:
            fed = {}
            size = warm_up["batch_size"]
            for key, value in warm_up["inputs"].items():
                dims = [int(n) for n in value["dims"]]
                kind, wanted, reshape = declared[key]
                assert value["data_type"] == kind
                pairs = zip(dims, map(int, wanted), strict=True)
                assert all(want in (-1, have) for have, want in pairs)
                if file := value.get("input_data_file"):
                    raw = (tmp_path / "triton" / name / "warmup" / file).read_bytes()
                    one = np.frombuffer(raw, NUMPY[kind]).reshape(dims)
                else:
                    assert value["zero_data"] is True
                    one = np.zeros(dims, NUMPY[kind])
                batch = np.stack([one] * size)
                fed[key] = batch.reshape(size) if reshape == {} else batch
            outputs = graph.run(None, fed)
            assert all(len(output) == size for output in outputs)
        sizes = sorted(warm_up["batch_size"] for warm_up in config["model_warmup"])
        assert sizes == [1, config["max_batch_size"]]


def test_the_graph_with_constant_tables_answers_as_the_model(shop: Shop, tmp_path: Path) -> None:
    """Requests of one batch with their own k: the first of each row's answer are its own."""
    write_triton(shop.folder, tmp_path / "triton")
    version = tmp_path / "triton" / "sequence" / "1"
    history = np.array([[3, 9, 4], [7, 0, 0]], np.int64)
    rows, scores = session(version / "model.onnx").run(
        ["rows", "scores"],
        {
            "history": history,
            "length": np.array([3, 1], np.int64),
            "excluded": history,
            "k": np.array([[5], [8]], np.int64),
        },
    )
    ids = load_catalogue(version).item_ids
    assert rows.shape == (2, 8)
    for line, (length, k) in enumerate(((3, 5), (1, 8))):
        seen = [ids[row - 1] for row in history[line, :length]]
        wanted = shop.twin.recommend(seen, k, excluded=seen)
        assert [ids[row - 1] for row in rows[line, :k]] == [item_id for item_id, _ in wanted]
        np.testing.assert_allclose(scores[line, :k], [s for _, s in wanted], rtol=1e-5)


def test_the_tables_lie_beside_the_graph_as_the_bundle_has_them(shop: Shop, tmp_path: Path) -> None:
    write_triton(shop.folder, tmp_path / "triton")
    version = tmp_path / "triton" / "sequence" / "1"
    for name in ("item_inputs.npy", "item_outputs.npy"):
        assert (version / name).read_bytes() == (shop.folder / "tables" / name).read_bytes()
    encoder_file = tmp_path / "triton" / "image_encoder" / "1" / "model.onnx"
    assert encoder_file.samefile(shop.folder / "image_encoder.onnx")
    assert (version / "model.onnx").stat().st_size < 10_000
    onnx.checker.check_model(str(version / "model.onnx"), full_check=True)


def test_the_next_bundle_is_the_next_version_of_what_changed(shop: Shop, tmp_path: Path) -> None:
    target = tmp_path / "triton"
    first = write_triton(shop.folder, target)
    assert [(m.name, m.version, m.new) for m in first] == [
        ("sequence", 1, True),
        ("image_encoder", 1, True),
        ("text_encoder", 1, True),
    ]
    assert not any(model.new for model in write_triton(shop.folder, target))
    for version in (2, 3):
        models = write_triton(add(shop.root, seed=version).folder, target)
        assert [(m.version, m.new) for m in models] == [(version, True), (1, False), (1, False)]
    assert sorted(path.name for path in (target / "sequence").iterdir()) == [
        "2",
        "3",
        "config.pbtxt",
        "warmup",
    ]
    made_from = json.loads((target / "sequence" / "3" / "made_from.json").read_text())
    assert made_from["bundle_id"] == Repository(shop.root).resolve("stable").name


def test_a_graph_that_answers_otherwise_is_not_written(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables beside the graph are those of another training."""
    write_triton(shop.folder, tmp_path / "triton")
    version = tmp_path / "triton" / "sequence" / "1"
    bundle = open_bundle(shop.folder)
    kept = [t for t in bundle.sequence_spec.inputs if t.name in ("history", "length", "excluded")]
    each = TensorSpec(name="k", dtype="int64", shape=("B", 1))
    outputs = tuple(t for t in bundle.sequence_spec.outputs if t.name != "states")
    spec = replace(bundle.sequence_spec, inputs=(*kept, each), outputs=outputs)
    check_same_answers(bundle, version / "model.onnx", spec)
    (version / "item_outputs.npy").unlink()
    np.save(version / "item_outputs.npy", make_twin(SIZES, seed=8).outputs_CD)
    with pytest.raises(BundleError, match="does not answer as the bundle's"):
        check_same_answers(bundle, version / "model.onnx", spec)


def test_a_bundle_without_encoders_is_one_model(tmp_path: Path) -> None:
    shop = publish(tmp_path / "repository", SIZES)
    assert [m.name for m in write_triton(shop.folder, tmp_path / "triton")] == ["sequence"]
    assert folders(tmp_path / "triton") == ["sequence"]


def contents(target: Path) -> dict[str, bytes]:
    files = [path for path in target.rglob("*") if path.is_file()]
    return {str(path.relative_to(target)): path.read_bytes() for path in files}


@pytest.mark.parametrize("there", [True, False])
def test_a_disk_that_is_full_at_the_last_model_leaves_everything_as_it_was(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    target = tmp_path / "models/triton"
    other = add(shop.root, seed=4).folder
    (other / "tokenizer.json").write_text(
        OTHER_TOKENIZER
    )  # so that the text encoder is new as well
    seal(other, load_manifest(other))
    if there:
        write_triton(shop.folder, target)
    before = contents(tmp_path / "models")
    made = []

    def bring(source: Path, place: Path) -> None:
        made.append(source.name)
        if source.name == "text_encoder.onnx":
            raise OSError(ENOSPC, "No space left on device", str(place))
        os.link(source, place)

    monkeypatch.setattr(triton, "bring", bring)
    with pytest.raises(OSError, match="No space left"):
        write_triton(other, target)
    assert made[0] == "catalogue.parquet"  # the sequence graph's, which was made before
    assert target.exists() == there
    assert contents(tmp_path / "models") == before


def test_tables_of_another_probe_set_leave_the_versions_as_they_were(
    shop: Shop, tmp_path: Path
) -> None:
    target = tmp_path / "triton"
    write_triton(shop.folder, target)
    before = contents(tmp_path)
    damaged = add(shop.root, seed=4).folder
    shutil.copyfile(shop.folder / "probe.npz", damaged / "probe.npz")
    with pytest.raises(BundleError, match=r"probe\.npz"):
        write_triton(damaged, target)
    assert contents(target) == {
        name.removeprefix("triton/"): content
        for name, content in before.items()
        if name.startswith("triton/")
    }
    assert not list(tmp_path.glob(".triton*"))


def test_whoever_looks_at_any_moment_sees_whole_models(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, looked = tmp_path / "triton", []

    def looking(what: Callable[..., None]) -> Callable[..., None]:
        def move(source: Path, place: Path) -> None:
            assert_triton_whole(target)
            what(source, place)
            assert_triton_whole(target)
            looked.append(place)

        return move

    monkeypatch.setattr(os, "rename", looking(os.rename))
    monkeypatch.setattr(os, "replace", looking(os.replace))
    write_triton(shop.folder, target)
    for seed in (2, 3):
        write_triton(add(shop.root, seed=seed).folder, target)
    reached = {path.relative_to(target).as_posix() for path in looked if target in path.parents}
    assert reached >= {"sequence", "image_encoder", "text_encoder", "sequence/2", "sequence/3"}


def test_two_writers_at_once_do_not_disturb_each_other(shop: Shop, tmp_path: Path) -> None:
    target = tmp_path / "triton"
    bundles = [shop.folder, *(add(shop.root, seed=seed).folder for seed in range(1, 6))]
    with ThreadPoolExecutor(2) as pool:
        written = [*pool.map(lambda bundle: write_triton(bundle, target), bundles)]
    numbers = [model.version for models in written for model in models if model.name == "sequence"]
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]
    assert folders(target / "sequence") == ["5", "6", "warmup"]
    assert_triton_whole(target)
    assert folders(target / "image_encoder") == ["1", "warmup"]
    newest = read_json(target / "sequence/6/made_from.json", "")
    [last] = [b for b, n in zip(bundles, numbers, strict=True) if n == 6]
    assert newest["bundle_id"] == last.name
    assert not list(tmp_path.glob(".triton*"))


def test_what_another_has_replaced_meanwhile_is_made_after_all(shop: Shop, tmp_path: Path) -> None:
    target = tmp_path / "triton"
    write_triton(shop.folder, target)
    other = add(shop.root, seed=5).folder
    with staged_triton(shop.folder, target) as staged:
        assert not list(staged.folder.iterdir())  # all of it is there
        write_triton(other, target)
        models = staged.put_in_place(shop.folder)
    assert [(m.name, m.version, m.new) for m in models] == [
        ("sequence", 3, True),
        ("image_encoder", 1, False),
        ("text_encoder", 1, False),
    ]
    made_from = read_json(target / "sequence/3/made_from.json", "")
    assert made_from["bundle_id"] == shop.folder.name


def test_what_a_killed_writer_has_left_is_removed_what_a_living_one_has_is_not(
    shop: Shop, tmp_path: Path
) -> None:
    target = tmp_path / "triton"
    dead = tmp_path / f".triton.new-{'0' * 16}"
    (dead / "sequence" / "1").mkdir(parents=True)
    for name in (dead.name, f".triton.new-{'1' * 16}"):  # also before it had a folder
        (tmp_path / f"{name}.lock").touch()
    with staged_triton(shop.folder, target) as living:
        write_triton(shop.folder, target)
        assert (living.folder / "sequence/1/model.onnx").is_file()
        assert not dead.exists()
    assert folders(tmp_path) == ["repository", "triton"]
    assert not list(tmp_path.glob(".*"))


def test_a_file_in_its_place_is_told(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "triton").write_text("x")
    with pytest.raises(BundleError, match="a Triton model repository is a folder"):
        write_triton(shop.folder, tmp_path / "triton")
