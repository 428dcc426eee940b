"""TensorRT-RTX parses and builds every graph that is exported, without a GPU.

TensorRT-RTX has wheels for Linux on x86-64 alone; there it is in the lock and these tests run.
"""

import json
import platform
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from support.tiny_bundle import Sizes, publish
from transformers import BertConfig, BertModel

from benchmarks.gpu.topk import write_top_k
from mmsr.bundle.manifest import GraphSpec, Manifest, TableSizes
from mmsr.bundle.repository import Repository
from mmsr.engine.model import RowRequest, assemble
from mmsr.engine.runners.buckets import shape_batch
from mmsr.engine.runners.engine_files import find_engines, steps_of
from mmsr.engine.runners.tensorrt_engine import make_logger
from mmsr.export.convert import (
    convert_image_encoder,
    convert_item,
    convert_sequence,
    convert_text_encoder,
)
from mmsr.export.explain_graph import convert_explain
from mmsr.export.folding import RowLayout
from mmsr.export.onnx_file import describe
from mmsr.export.precision import SEQUENCE_HALF_INPUTS, write_half
from mmsr.export.tensorrt.builder import BuildRequest, build_engine
from mmsr.export.tensorrt.engines import EngineChoice, build_engines
from mmsr.export.tensorrt.flavour import Flavour, TensorRTError, find_flavour
from mmsr.export.tensorrt.profiles import Buckets, batches, profiles_of
from mmsr.training.config import ModelConfig
from mmsr.training.features.config import FeaturesConfig
from mmsr.training.features.image_encoder import load_image_encoder
from mmsr.training.features.text_encoder import TextEncoder
from mmsr.training.model import SequentialRecommender

HAS_WHEEL = sys.platform == "linux" and platform.machine() == "x86_64"
pytestmark = pytest.mark.skipif(not HAS_WHEEL, reason="TensorRT-RTX has no wheel for this platform")

CONFIG = ModelConfig(width=16, side_width=8, feedforward_width=16, blocks=2, max_length=12)
WIDTHS = {"image": 6, "text": 5, "category": 4}
SIZES = TableSizes(items=50, capacity=128, input_width=RowLayout(CONFIG).columns, output_width=16)
BUCKETS = Buckets(sequence=(1, 8), image=(2,), text=(2,))
HALF_COSINE = 0.9999  # of an encoder's fp16 with its fp32 features; measured 0.999999
HALF_ERROR = 2e-3  # of the largest value; measured 6e-4
GRAPHS = ("sequence", "chunked", "explain", "item", "image_encoder", "text_encoder")
SEQUENCES = ("sequence", "chunked")  # the forms of its scoring
Batch = dict[str, Any]


def write_graph(name: str, path: Path) -> GraphSpec:
    torch.manual_seed(0)
    if name == "image_encoder":
        config = FeaturesConfig(image_encoder="squeezenet1_1", image_size=32, random_weights=True)
        return convert_image_encoder(load_image_encoder(config)[0], 32, path)
    if name == "text_encoder":
        small = BertConfig(
            vocab_size=99,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        )
        body = BertModel(small, add_pooling_layer=False)
        return convert_text_encoder(TextEncoder(body, "mean"), 16, path)
    model = SequentialRecommender(CONFIG, SIZES.items, WIDTHS).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if name == "chunked":
        return convert_sequence(model, path, folded=True, chunked=True)
    converters = {"sequence": convert_sequence, "explain": convert_explain, "item": convert_item}
    return converters[name](model, path, folded=True)


@pytest.fixture(scope="module")
def rtx() -> Flavour:
    return find_flavour("tensorrt-rtx", None)


@pytest.fixture(scope="module", params=GRAPHS)
def graph(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """Return a graph's name and file; its half twin lies beside it."""
    name = request.param
    path = tmp_path_factory.mktemp("graph") / f"{name}.onnx"
    write_graph(name, path)
    write_half(path, half_of(path), SEQUENCE_HALF_INPUTS if name in SEQUENCES else ())
    return name, path


def half_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}-fp16.onnx")


def manifest() -> Manifest:
    return Manifest(
        max_length=CONFIG.max_length,
        exclude_seen=True,
        tables=SIZES,
        graphs={},
        model={},
        features={"text": {"max_tokens": 16}},
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_exported_graph_is_built_with_its_dynamic_profiles(
    graph: tuple[str, Path], precision: str, rtx: Flavour
) -> None:
    name, path = graph
    path = path if precision == "fp32" else half_of(path)
    profiles = profiles_of("sequence" if name in SEQUENCES else name, manifest(), BUCKETS)
    steps: list[tuple[str, int, int]] = []
    request = BuildRequest(onnx=path, spec=describe(path), profiles=profiles)
    built = build_engine(request, rtx, lambda *step: steps.append(step))
    assert len(built.plan) > 10_000
    assert steps
    assert all(0 <= done <= of for _, done, of in steps)


def test_half_answers_as_single_does(graph: tuple[str, Path]) -> None:
    name, path = graph
    batch = batch_of(name)
    wanted = answers(path, batch)
    halved = {n: a.astype(np.float16) if n in SEQUENCE_HALF_INPUTS else a for n, a in batch.items()}
    found = answers(half_of(path), halved if name in SEQUENCES else batch)
    for output, values in wanted.items():
        if output == "rows":
            continue
        error = np.abs(found[output] - values).max() / max(1.0, np.abs(values).max())
        assert found[output].dtype == np.float32
        assert error <= HALF_ERROR
        if output == "feature":
            norms = np.linalg.norm(values, axis=1) * np.linalg.norm(found[output], axis=1)
            assert ((values * found[output]).sum(1) / norms).min() >= HALF_COSINE


def batch_of(name: str) -> Batch:
    random = np.random.default_rng(0)
    if name == "image_encoder":
        return {"pixels": random.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)}
    if name == "text_encoder":
        mask = (np.arange(16) < np.array([[3], [9], [16]])).astype(np.int64)
        return {"input_ids": random.integers(1, 99, (3, 16)) * mask, "attention_mask": mask}
    if name == "item":
        content: Batch = {"id_row": np.array([0, 3, 50])}
        content["id_table"] = random.normal(size=(51, 16)).astype(np.float32)
        for modality, width in WIDTHS.items():
            content[modality] = random.normal(size=(3, width)).astype(np.float32)
            content[f"{modality}_present"] = np.array([True, False, True])
        return content
    tables: Batch = {
        # As trained rows are: queries hold the attention's scale already.
        "item_inputs": random.normal(scale=0.3, size=(128, SIZES.input_width)).astype(np.float32),
        "item_outputs": random.normal(size=(128, 16)).astype(np.float32),
    }
    asked: Batch = {
        "history": random.integers(1, 51, (4, 12)),
        "length": np.array([12, 1, 5, 7]),
    }
    if name == "explain":
        switches = np.ones((4, 5), np.float32)
        switches[[1, 2, 3], [0, 3, 4]] = 0.0
        return asked | tables | {"candidates": random.integers(1, 51, (4, 7)), "switches": switches}
    return {
        **asked,
        **tables,
        "excluded": random.integers(0, 51, (4, 3)),
        "k": np.array([20]),
    }


def answers(path: Path, batch: Batch) -> Batch:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, batch), strict=True))


@pytest.mark.parametrize("chunks", [0, 10])
def test_both_forms_of_top_k_are_built_and_agree(chunks: int, tmp_path: Path, rtx: Flavour) -> None:
    random = np.random.default_rng(0)
    table = random.normal(size=(1000, 128)).astype(np.float32)
    states = random.normal(size=(3, 128)).astype(np.float32)
    single, half = tmp_path / "single.onnx", tmp_path / "half.onnx"
    write_top_k(single, 1000, chunks, half=False)
    found = answers(single, {"states": states, "table": table})
    wanted = np.argsort(-(states @ table.T), axis=1)[:, :20]
    np.testing.assert_array_equal(found["rows"], wanted)
    write_top_k(half, 1000, chunks, half=True)
    profiles = [{"B": size} for size in batches((1, 8))]
    request = BuildRequest(onnx=half, spec=describe(half), profiles=profiles)
    assert build_engine(request, rtx, lambda *step: None).plan


def test_a_node_that_tensorrt_does_not_know_is_named(tmp_path: Path, rtx: Flavour) -> None:
    node = helper.make_node("NoSuchThing", ["x"], ["y"], name="layer.3/odd", domain="elsewhere")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", 4]) for n in ("x", "y"))
    graph = helper.make_graph([node], "odd", [x], [y])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("elsewhere", 1)]
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    request = BuildRequest(onnx=path, spec=describe(path), profiles=[])
    with pytest.raises(TensorRTError, match=r"odd.onnx: .*layer.3/odd.*\(NoSuchThing\)") as caught:
        build_engine(request, rtx, lambda *step: None)
    assert "\n" not in str(caught.value)


def test_engines_lie_beside_the_bundle_and_are_replaced_whole(tmp_path: Path, rtx: Flavour) -> None:
    shop = publish(tmp_path, Sizes(items=60, width=8))
    repository = Repository(tmp_path)
    choice = EngineChoice(flavour=rtx, gpu=None, buckets=Buckets(sequence=(8,)))
    told: list[str] = []
    tell = partial(lambda told, graph, *step: told.append(graph), told)
    folder, entries = build_engines(repository, shop.folder.name, choice, tell)
    assert folder == tmp_path / "engines" / shop.folder.name / f"tensorrt-rtx-{rtx.version}-any"
    assert sorted(p.name for p in folder.iterdir()) == ["engine.json", "sequence.plan"]
    assert set(told) == {"sequence"}
    described = json.loads((folder / "engine.json").read_text())
    assert described["engines"]["sequence"]["sha256"] == entries["sequence"].sha256
    assert described["parity"]["proven"] is False
    again, _ = build_engines(repository, shop.folder.name, replace(choice, precision="fp32"), tell)
    assert again == folder
    assert (
        json.loads((folder / "engine.json").read_text())["engines"]["sequence"]["precision"]
        == "fp32"
    )
    assert not list(tmp_path.glob(".staging-*"))
    assert repository.ids() == [shop.folder.name]


def test_what_a_runner_would_bind_is_what_the_engine_was_built_with(
    tmp_path: Path, rtx: Flavour
) -> None:
    """As far as can be told without a GPU: names, the sizes that the host reads, the ranges."""
    shop = publish(tmp_path, Sizes(items=60, width=8))
    choice = EngineChoice(flavour=rtx, gpu=None, buckets=Buckets(sequence=(1, 8, 32)))
    build_engines(Repository(tmp_path), shop.folder.name, choice, lambda *step: None)
    (file,) = find_engines(shop.folder, "sequence")
    assert (file.flavour, file.version, file.sm) == ("tensorrt-rtx", rtx.version, None)
    assert len(file.read()) > 10_000
    steps, spec = steps_of(file), describe(shop.folder / "sequence.onnx")
    network, parsed = parse(shop.folder / "sequence.onnx", rtx)
    assert {tensor.name for tensor in parsed} == {tensor.name for tensor in spec.inputs}
    sizes = {tensor.name for tensor in parsed if tensor.is_shape_tensor}
    assert sizes == set(steps.values)
    asked = [RowRequest([1] * 5, [2] * 20, 7)] * 5
    for count in (1, 5, 30):
        shaped = shape_batch(spec, steps, assemble(asked[:1] * count))
        profile = file.profiles[steps.batch_place(shaped.key)]
        for name, size in shaped.key:
            assert profile[name]["least"] <= size <= profile[name]["most"], (name, size)
    assert network.num_outputs == len(spec.outputs)


def parse(path: Path, flavour: Flavour) -> tuple[Any, list[Any]]:
    """Return the network of a graph, and its inputs."""
    trt, logger = flavour.module, make_logger(flavour.module)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(path.read_bytes()), logger.reason()
    KEPT.append((builder, parser))  # the network does not outlive them
    return network, [network.get_input(n) for n in range(network.num_inputs)]


KEPT: list[Any] = []
