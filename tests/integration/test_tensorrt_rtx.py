"""TensorRT-RTX parses and builds every graph that is exported, without a GPU.

TensorRT-RTX has wheels for Linux on x86-64 alone; there it is in the lock and these tests run.
"""

import json
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
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
from mmsr.bundle.manifest import Manifest, TableSizes
from mmsr.bundle.repository import Repository
from mmsr.engine.model import RowRequest, assemble
from mmsr.engine.runners.buckets import shape_batch
from mmsr.engine.runners.engine_files import find_engines, steps_of
from mmsr.engine.runners.tensorrt_engine import make_logger
from mmsr.export.convert import (
    convert_image_encoder,
    convert_item,
    convert_text_encoder,
    sequence_conversion,
)
from mmsr.export.explain_graph import convert_explain
from mmsr.export.folding import RowLayout, plain_columns
from mmsr.export.int8_scoring import write_int8_scoring
from mmsr.export.onnx_file import convert, describe
from mmsr.export.precision import SEQUENCE_HALF_INPUTS, write_bfloat16, write_half
from mmsr.export.scoring_tail import append_scoring
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
MODELS = {
    "sum": CONFIG,
    "gate": replace(CONFIG, fusion="gate", score="cosine", whiten=True, blocks=1),
    "concat": replace(CONFIG, fusion="concat", blocks=1),
    "sasrec": replace(CONFIG, sources=("id",), position_in_inputs=True, blocks=1),
}
WIDTHS = {"image": 6, "text": 5, "category": 4}
SIZES = TableSizes(items=50, capacity=128, input_width=RowLayout(CONFIG).columns, output_width=16)
ONE_BUCKET = Buckets(sequence=(8,), image=(2,), text=(2,))
TWO_BUCKETS = replace(ONE_BUCKET, sequence=(1, 8))  # they double a build's time
HALF_COSINE = 0.9999  # of an encoder's fp16 with its fp32 features; measured 0.999999
HALF_ERROR = 2e-3  # of the largest value; measured 6e-4
Batch = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One kind of graph that is exported."""

    graph: str  # its name in a bundle
    model: str = ""
    folded: bool = True
    chunked: bool = False

    def __str__(self) -> str:
        rows = "folded" if self.folded else "plain"
        said = [self.graph, self.model, rows if self.model else "", "chunked" * self.chunked]
        return " ".join(filter(None, said))


# What is independent of each other is built once: scoring has its forms beside any rows, explain
# and item graphs have both forms of rows beside any fusion.
KINDS = (
    *(Kind("sequence", "sum", *forms) for forms in product((True, False), (False, True))),
    *(Kind("sequence", "gate", folded) for folded in (True, False)),
    Kind("sequence", "concat", folded=False),
    Kind("sequence", "sasrec"),
    Kind("explain", "sum"),
    Kind("explain", "gate"),
    Kind("explain", "concat", folded=False),
    Kind("item", "gate"),
    Kind("item", "sum", folded=False),
    Kind("image_encoder"),
    Kind("text_encoder"),
)
PRECISIONS = {"sequence": ("fp32", "fp16", "bf16")}  # bfloat16 is of the sequence graph alone


def model_of(name: str) -> SequentialRecommender:
    torch.manual_seed(0)
    config = MODELS[name]
    widths = {modality: WIDTHS[modality] for modality in config.modalities}
    model = SequentialRecommender(config, SIZES.items, widths).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def write_graph(kind: Kind, path: Path) -> None:
    torch.manual_seed(0)
    if kind.graph == "image_encoder":
        config = FeaturesConfig(image_encoder="squeezenet1_1", image_size=32, random_weights=True)
        convert_image_encoder(load_image_encoder(config)[0], 32, path)
    elif kind.graph == "text_encoder":
        small = BertConfig(
            vocab_size=99,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        )
        body = BertModel(small, add_pooling_layer=False)
        convert_text_encoder(TextEncoder(body, "mean"), 16, path)
    elif kind.graph == "sequence":
        conversion = sequence_conversion(model_of(kind.model), folded=kind.folded)
        convert(conversion.module, conversion.ports, conversion.outputs, path)
    else:
        converters = {"explain": convert_explain, "item": convert_item}
        converters[kind.graph](model_of(kind.model), path, folded=kind.folded)


@pytest.fixture(scope="module")
def rtx() -> Flavour:
    return find_flavour("tensorrt-rtx", None)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    """Return what gives a graph's file; the two forms of scoring share one conversion."""
    folder = tmp_path_factory.mktemp("graphs")

    def give(kind: Kind) -> Path:
        path = folder / f"{kind}.onnx"
        if not path.exists():
            base = folder / f"{replace(kind, chunked=False)} without scoring.onnx"
            if not base.exists():
                write_graph(kind, base)
            shutil.copy(base, path)
            if kind.graph == "sequence":
                append_scoring(path, chunked=kind.chunked)
        return path

    return give


@pytest.fixture(scope="module", params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture(scope="module")
def graph(kind: Kind, converted: Callable[[Kind], Path]) -> Path:
    """Return a graph's file; those in other precisions lie beside it."""
    path = converted(kind)
    write_half(path, beside(path, "fp16"), SEQUENCE_HALF_INPUTS if is_sequence(kind) else ())
    if is_sequence(kind):
        write_bfloat16(path, beside(path, "bf16"))
    return path


def is_sequence(kind: Kind) -> bool:
    return kind.graph == "sequence"


def beside(path: Path, precision: str) -> Path:
    return path if precision == "fp32" else path.with_name(f"{path.stem} {precision}.onnx")


def manifest() -> Manifest:
    return Manifest(
        max_length=CONFIG.max_length,
        exclude_seen=True,
        tables=SIZES,
        graphs={},
        model={},
        features={"text": {"max_tokens": 16}},
    )


def test_every_exported_graph_is_built_with_its_dynamic_profiles(
    kind: Kind, graph: Path, rtx: Flavour
) -> None:
    buckets = TWO_BUCKETS if kind.model == "sum" and kind.folded else ONE_BUCKET
    profiles = profiles_of(kind.graph, manifest(), buckets)
    for precision in PRECISIONS.get(kind.graph, ("fp32", "fp16")):
        path = beside(graph, precision)
        steps: list[tuple[str, int, int]] = []
        request = BuildRequest(onnx=path, spec=describe(path), profiles=profiles)
        built = build_engine(request, rtx, lambda *step, steps=steps: steps.append(step))
        assert len(built.plan) > 10_000
        assert steps
        assert all(0 <= done <= of for _, done, of in steps)


def test_half_answers_as_single_does(kind: Kind, graph: Path) -> None:
    batch = batch_of(kind)
    wanted = answers(graph, batch)
    halved = {n: a.astype(np.float16) if n in SEQUENCE_HALF_INPUTS else a for n, a in batch.items()}
    found = answers(beside(graph, "fp16"), halved if is_sequence(kind) else batch)
    for output, values in wanted.items():
        if output == "rows":
            continue
        error = np.abs(found[output] - values).max() / max(1.0, np.abs(values).max())
        assert found[output].dtype == np.float32
        assert error <= HALF_ERROR
        if output == "feature":
            norms = np.linalg.norm(values, axis=1) * np.linalg.norm(found[output], axis=1)
            assert ((values * found[output]).sum(1) / norms).min() >= HALF_COSINE


@pytest.mark.parametrize("chunked", [False, True])
def test_eight_bit_scoring_does_not_go_to_tensorrt_and_the_node_is_named(
    chunked: bool, converted: Callable[[Kind], Path], tmp_path: Path, rtx: Flavour
) -> None:
    """Nor is it asked to: `require_fp32` refuses such a bundle before anything is built."""
    path = tmp_path / "int8.onnx"
    write_int8_scoring(converted(Kind("sequence", "sum", chunked=chunked)), path)
    profiles = profiles_of("sequence", manifest(), Buckets(sequence=(8,)))
    request = BuildRequest(onnx=path, spec=describe(path), profiles=profiles)
    with pytest.raises(TensorRTError, match=r"'int8_state' \(Cast\): .*UINT8"):
        build_engine(request, rtx, lambda *step: None)


def batch_of(kind: Kind) -> Batch:
    random, name = np.random.default_rng(0), kind.graph
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
    config = MODELS[kind.model]
    columns = RowLayout(config).columns if kind.folded else plain_columns(config)
    tables: Batch = {
        # As trained rows are: queries hold the attention's scale already.
        "item_inputs": random.normal(scale=0.3, size=(128, columns)).astype(np.float32),
        "item_outputs": random.normal(size=(128, 16)).astype(np.float32),
    }
    asked: Batch = {
        "history": random.integers(1, 51, (4, 12)),
        "length": np.array([12, 1, 5, 7]),
    }
    if name == "explain":
        switches = np.ones((4, 1 + len(WIDTHS) + 1), np.float32)
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
