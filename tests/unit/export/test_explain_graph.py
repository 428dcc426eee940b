"""The explain graph, as a module, against the model with each source left out."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mmsr.export.explain_graph import ExplainGraph
from mmsr.export.folding import RowFolder
from mmsr.training.config import FUSIONS, ModelConfig
from mmsr.training.explain.sources import read_without, sources_of
from mmsr.training.items import ItemContent, ItemRows
from mmsr.training.model import SequentialRecommender

WIDTHS = {"image": 5, "text": 6, "category": 3}
ITEMS = 20
BASE = ModelConfig(width=16, side_width=8, heads=2, max_length=12, feedforward_width=20)
SOURCES = [
    ("id", "position", "image", "text", "category"),
    ("id",),
    ("text", "id"),
    ("position", "image", "text"),
]
HISTORY = torch.tensor([[3, 0, 0, 0, 0], [9, 9, 4, 0, 0], [1, 20, 7, 13, 2]])
LENGTH = torch.tensor([1, 3, 5])
CANDIDATES = torch.tensor([[5, 1, 20, 8], [9, 4, 2, 3], [1, 1, 1, 6]])
ATOL = 2e-5  # measured 1e-6 of scores up to 20


def make_model(config: ModelConfig) -> SequentialRecommender:
    torch.manual_seed(0)
    model = SequentialRecommender(config, ITEMS, WIDTHS).eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:  # so large that each source is felt
            loud = any(part in name for part in (".query", ".key", ".mix"))
            nn.init.normal_(parameter, std=0.6 if loud else 0.3)
            if name == "positions.weight":
                nn.init.normal_(parameter)
    return model


@torch.no_grad()
def rows_of(model: SequentialRecommender) -> ItemRows:
    torch.manual_seed(1)
    used = model.config.modalities
    features = {m: torch.randn(ITEMS + 1, WIDTHS[m]) for m in used}
    present = {m: torch.rand(ITEMS + 1) > 0.2 for m in used}
    return model.table(ItemContent(features=features, present=present))


def switches_without(model: SequentialRecommender, source: str | None) -> Tensor:
    return torch.tensor([[float(name != source) for name in sources_of(model)]] * len(LENGTH))


def forms_of(config: ModelConfig) -> list[bool]:
    return [False] if config.fusion == "concat" else [False, True]


@torch.no_grad()
def check(model: SequentialRecommender) -> dict[str | None, Tensor]:
    """Compare every switch in every form of rows; return the scores by what was left out."""
    rows, scores = rows_of(model), {}
    for folded in forms_of(model.config):
        graph = ExplainGraph(model, folded)
        inputs = RowFolder(model)(rows.inputs_nW) if folded else rows.inputs_nW
        for source in (None, *sources_of(model)):
            switches = switches_without(model, source)
            found, looks = graph(HISTORY, LENGTH, CANDIDATES, switches, inputs, rows.outputs_nD)
            state, attention = read_without(model, rows.inputs_nW, HISTORY, LENGTH, source)
            scores[source] = (rows.outputs_nD[CANDIDATES] @ state[:, :, None])[:, :, 0]
            torch.testing.assert_close(found, scores[source], atol=ATOL, rtol=1e-5)
            torch.testing.assert_close(looks, attention, atol=1e-6, rtol=1e-5)
    return scores


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_each_source_left_out_answers_as_the_model_does(
    sources: tuple[str, ...], fusion: str
) -> None:
    for blocks, in_inputs in itertools.product((1, 2), (False, True)):
        config = replace(
            BASE, sources=sources, fusion=fusion, blocks=blocks, position_in_inputs=in_inputs
        )
        scores = check(make_model(config))
        # A user with one item looks at it whatever is left out; all others feel each source.
        for source in sources_of(make_model(config)):
            assert (scores[source] - scores[None])[0].abs().max() < ATOL
            assert (scores[source] - scores[None])[1:].abs().max() > 20 * ATOL, source


@pytest.mark.parametrize("in_values", [False, True])
@pytest.mark.parametrize("in_outputs", [False, True])
@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_the_items_keep_their_content_wherever_it_is(
    in_values: bool, in_outputs: bool, score: str
) -> None:
    check(
        make_model(
            replace(BASE, content_in_values=in_values, content_in_outputs=in_outputs, score=score)
        )
    )


@torch.no_grad()
def test_the_switches_of_one_request_are_its_own() -> None:
    model = make_model(BASE)
    rows, graph = rows_of(model), ExplainGraph(model, False)
    mixed = torch.ones(3, 5)
    mixed[1, 3] = 0.0
    tables = rows.inputs_nW, rows.outputs_nD
    found, _ = graph(HISTORY, LENGTH, CANDIDATES, mixed, *tables)
    whole, _ = graph(HISTORY, LENGTH, CANDIDATES, torch.ones(3, 5), *tables)
    without, _ = graph(HISTORY, LENGTH, CANDIDATES, switches_without(model, "text"), *tables)
    torch.testing.assert_close(found[[0, 2]], whole[[0, 2]])
    torch.testing.assert_close(found[1], without[1])
