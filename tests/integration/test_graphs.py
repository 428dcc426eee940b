"""Exported graphs against the modules that they were made from, at sizes other than traced."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from mmsr.engine.probe_answers import outside
from mmsr.engine.runners.base import Runner
from mmsr.engine.runners.onnx import open_onnx
from mmsr.export.convert import convert_item, convert_sequence
from mmsr.export.explain_graph import convert_explain
from mmsr.export.folding import RowFolder, decide
from mmsr.export.onnx_file import ExportError, Port, convert, describe
from mmsr.training.config import SOURCES, ModelConfig
from mmsr.training.explain.sources import read_without, sources_of
from mmsr.training.items import ItemContent, ModalityEncoder
from mmsr.training.model import SequentialRecommender

ITEMS, CAPACITY = 130, 192  # three chunks, the last partly without items
WIDTHS = {"image": 6, "text": 5, "category": 4}
CONFIG = ModelConfig(width=16, side_width=8, feedforward_width=16, blocks=2, max_length=12)
FAMILY = {
    "sum": CONFIG,
    "gate": replace(CONFIG, fusion="gate", score="cosine", whiten=True, blocks=1),
    "concat, no ids": replace(
        CONFIG, fusion="concat", sources=SOURCES[1:], position_in_inputs=True, blocks=1
    ),
}
ATOL = 1e-5  # measured 2e-6: fp32 sums in another order
RTOL = 1e-6  # cosine scores are as large as 1 / temperature


def make_model(config: ModelConfig) -> SequentialRecommender:
    torch.manual_seed(0)
    model = SequentialRecommender(config, ITEMS, WIDTHS).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    for modality, encoder in model.item_encoder.modalities.items():
        assert isinstance(encoder, ModalityEncoder)
        features = 3 * torch.randn(200, WIDTHS[modality]) + 1
        encoder.fit_statistics(features, torch.ones(200, dtype=torch.bool))
    return model


@pytest.fixture(scope="module", params=list(FAMILY))
def model(request: pytest.FixtureRequest) -> SequentialRecommender:
    return make_model(FAMILY[request.param])


@pytest.fixture(scope="module")
def plain() -> SequentialRecommender:
    return make_model(CONFIG)


@pytest.fixture(scope="module")
def tables() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(CAPACITY, 16 + 3 * 8), torch.randn(CAPACITY, 16)


def is_foldable(model: SequentialRecommender) -> bool:
    return decide(model.config, CAPACITY).folded


def inputs_of(model: SequentialRecommender, plain_CW: Tensor) -> Tensor:
    with torch.no_grad():
        rows_CT: Tensor = RowFolder(model)(plain_CW) if is_foldable(model) else plain_CW
    return rows_CT


def test_both_forms_of_rows_are_tried() -> None:
    forms = {name: decide(config, CAPACITY).folded for name, config in FAMILY.items()}
    assert forms == {"sum": True, "gate": True, "concat, no ids": False}


@pytest.fixture(scope="module", params=[False, True], ids=["flat", "chunked"])
def sequence(
    request: pytest.FixtureRequest,
    model: SequentialRecommender,
    tables: tuple[Tensor, Tensor],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Runner]:
    path = tmp_path_factory.mktemp("graph") / "sequence.onnx"
    folded = is_foldable(model)
    spec = convert_sequence(model, path, folded=folded, chunked=request.param)
    runner = open_onnx(path, spec, threads=1)
    runner.bind("item_inputs", inputs_of(model, tables[0]).numpy())
    runner.bind("item_outputs", tables[1].numpy())
    yield runner
    runner.close()


@pytest.mark.parametrize(
    ("size", "k", "barred"),
    [((1, 1), 1, 0), ((1, 12), 5, 4), ((7, 5), 20, 9), ((2, 3), 130, 4), ((3, 2), 20, 500)],
)
def test_sequence_graph_ranks_as_the_model_does(
    sequence: Runner,
    model: SequentialRecommender,
    tables: tuple[Tensor, Tensor],
    size: tuple[int, int],
    k: int,
    barred: int,
) -> None:
    batch, length = size
    random = np.random.default_rng(length)
    length_B = random.integers(1, length + 1, batch)
    length_B[0] = length
    history = np.where(
        np.arange(length) < length_B[:, None], random.integers(1, ITEMS + 1, (batch, length)), 0
    )
    excluded = np.concatenate(
        [random.integers(0, ITEMS + 1, (batch, barred)), outside(batch, ITEMS)], axis=1
    )
    with torch.no_grad():
        states = model.last(tables[0], torch.from_numpy(history), torch.from_numpy(length_B))
        expected = (states @ tables[1].T).numpy()
    np.put_along_axis(expected, excluded, -np.inf, axis=1)
    found = sequence.run(
        {
            "history": history,
            "length": length_B,
            "excluded": excluded,
            "k": np.array([k]),
        }
    )
    np.testing.assert_allclose(found["states"], states, atol=ATOL, rtol=RTOL)
    best = -np.sort(-expected, axis=1)[:, :k]
    assert found["rows"].shape == (batch, k)
    eligible = best > -np.inf
    np.testing.assert_array_equal(found["scores"] > -np.inf, eligible)
    np.testing.assert_allclose(found["scores"][eligible], best[eligible], atol=ATOL, rtol=RTOL)
    at_rows = np.take_along_axis(expected, found["rows"], axis=1)
    np.testing.assert_allclose(at_rows[eligible], best[eligible], atol=ATOL, rtol=RTOL)


def test_padding_rows_of_the_table_never_touch_an_answer(
    sequence: Runner, tables: tuple[Tensor, Tensor]
) -> None:
    batch = {
        "history": np.array([[3, 4, 0, 0]]),
        "length": np.array([2]),
        "excluded": outside(1, ITEMS),
        "k": np.array([5]),
    }
    padded = sequence.run(batch)["scores"]
    alone = sequence.run({**batch, "history": np.array([[3, 4]])})["scores"]
    np.testing.assert_allclose(padded, alone, atol=ATOL, rtol=RTOL)


@pytest.fixture(scope="module")
def explain(
    model: SequentialRecommender,
    tables: tuple[Tensor, Tensor],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Runner]:
    path = tmp_path_factory.mktemp("graph") / "explain.onnx"
    runner = open_onnx(path, convert_explain(model, path, folded=is_foldable(model)), threads=1)
    runner.bind("item_inputs", inputs_of(model, tables[0]).numpy())
    runner.bind("item_outputs", tables[1].numpy())
    yield runner
    runner.close()


@pytest.mark.parametrize(("batch", "length", "candidates"), [(1, 1, 1), (7, 5, 3), (2, 12, 50)])
def test_explain_graph_leaves_each_source_out_as_the_model_does(
    explain: Runner,
    model: SequentialRecommender,
    tables: tuple[Tensor, Tensor],
    batch: int,
    length: int,
    candidates: int,
) -> None:
    random = np.random.default_rng(length)
    length_B = random.integers(1, length + 1, batch)
    history = np.where(
        np.arange(length) < length_B[:, None], random.integers(1, ITEMS + 1, (batch, length)), 0
    )
    rows = random.integers(1, ITEMS + 1, (batch, candidates))
    for source in (None, *sources_of(model)):
        on = np.array([name != source for name in sources_of(model)], np.float32)
        asked = {"history": history, "length": length_B, "candidates": rows}
        found = explain.run({**asked, "switches": np.tile(on, (batch, 1))})
        state, attention = read_without(
            model, tables[0], torch.from_numpy(history), torch.from_numpy(length_B), source
        )
        wanted = np.einsum("bd,bmd->bm", state.numpy(), tables[1].numpy()[rows])
        np.testing.assert_allclose(found["scores"], wanted, atol=ATOL, rtol=RTOL)
        np.testing.assert_allclose(found["attention"], attention, atol=ATOL)


def test_explain_graph_scores_as_the_sequence_graph_does(explain: Runner, sequence: Runner) -> None:
    asked = {"history": np.array([[3, 4, 9, 0], [2, 7, 7, 1]]), "length": np.array([3, 4])}
    best = sequence.run(
        {
            **asked,
            "excluded": outside(2, ITEMS),
            "k": np.array([10]),
        }
    )
    [switches] = [tensor.shape[1] for tensor in explain.spec.inputs if tensor.name == "switches"]
    assert isinstance(switches, int)
    on = np.ones((2, switches), np.float32)
    found = explain.run({**asked, "candidates": best["rows"], "switches": on})
    np.testing.assert_allclose(found["scores"], best["scores"], atol=ATOL, rtol=RTOL)


def test_item_graph_gives_the_rows_of_the_table(
    model: SequentialRecommender, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    features = {m: torch.randn(ITEMS + 1, w) for m, w in WIDTHS.items()}
    present = {m: torch.rand(ITEMS + 1) > 0.3 for m in WIDTHS}
    with torch.no_grad():
        rows = model.table(ItemContent(features=features, present=present))
    path = tmp_path / "item.onnx"
    runner = open_onnx(path, convert_item(model, path, folded=is_foldable(model)), threads=1)
    wanted_NT = inputs_of(model, rows.inputs_nW)
    for some in (torch.tensor([4]), torch.arange(1, ITEMS + 1)):
        batch = {"id_row": some.numpy(), "id_table": model.item_encoder.ids.weight.detach().numpy()}
        for modality in WIDTHS:
            batch[modality] = features[modality][some].numpy()
            batch[f"{modality}_present"] = present[modality][some].numpy()
        found = runner.run(batch)
        np.testing.assert_allclose(found["item_inputs"], wanted_NT[some], atol=ATOL, rtol=RTOL)
        np.testing.assert_allclose(
            found["item_outputs"], rows.outputs_nD[some], atol=ATOL, rtol=RTOL
        )
    runner.close()


def test_items_of_a_model_of_ids_alone_are_looked_up(tmp_path: Path) -> None:
    model, path = make_model(replace(CONFIG, sources=("id",))), tmp_path / "item.onnx"
    runner = open_onnx(path, convert_item(model, path, folded=False), threads=1)
    ids = model.item_encoder.ids.weight.detach().numpy()
    rows = np.array([4, 1, ITEMS], np.int64)
    found = runner.run({"id_row": rows, "id_table": ids})
    np.testing.assert_allclose(found["item_outputs"], ids[rows], atol=ATOL, rtol=RTOL)
    runner.close()


class Difference(nn.Module):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return one * 2 - other


class Fixing(nn.Module):
    def forward(self, one: Tensor) -> Tensor:
        return one.reshape(3, 2)


def test_inputs_that_share_an_example_stay_two_inputs(tmp_path: Path) -> None:
    shared, path = torch.ones(2), tmp_path / "g.onnx"
    ports = [Port(name=name, example=shared, dynamic={0: "B"}) for name in ("one", "other")]
    convert(Difference(), ports, ["result"], path)
    runner = open_onnx(path, describe(path), threads=1)
    batch = {"one": np.full(3, 5, np.float32), "other": np.full(3, 1, np.float32)}
    assert runner.run(batch)["result"].tolist() == [9.0] * 3
    runner.close()


def test_a_dimension_that_got_fixed_in_tracing_is_refused(tmp_path: Path) -> None:
    ports = [Port(name="one", example=torch.ones(3, 2), dynamic={0: "B"})]
    with pytest.raises((ExportError, torch.onnx.errors.OnnxExporterError), match=r"B|dynamic"):
        convert(Fixing(), ports, ["result"], tmp_path / "g.onnx")


def test_no_item_table_is_a_weight_of_the_graph(
    plain: SequentialRecommender, tmp_path: Path
) -> None:
    path = tmp_path / "item.onnx"
    convert_item(plain, path, folded=False)
    initializers = onnx.load(path).graph.initializer
    assert initializers
    assert all(ITEMS + 1 not in numpy_helper.to_array(i).shape for i in initializers)


def test_converting_again_gives_the_same_bytes_and_no_path_of_this_machine(
    plain: SequentialRecommender, tmp_path: Path
) -> None:
    for name in ("a.onnx", "b.onnx"):
        convert_item(plain, tmp_path / name, folded=True)
    content = (tmp_path / "a.onnx").read_bytes()
    assert content == (tmp_path / "b.onnx").read_bytes()
    assert b"forward" not in content
    assert str(Path(__file__).parents[2]).encode() not in content
