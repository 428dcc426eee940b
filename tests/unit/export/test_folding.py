"""Folded rows answer as plain ones do, and the form is chosen by its size."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from mmsr.export.folding import (
    MOST_BYTES,
    FoldedModel,
    RowFolder,
    RowLayout,
    decide,
    plain_columns,
)
from mmsr.training.config import ModelConfig
from mmsr.training.model import SequentialRecommender

WIDTHS = {"image": 5, "text": 6, "category": 3}
ITEMS = 20
BASE = ModelConfig(width=16, side_width=8, heads=2, max_length=12, feedforward_width=20)
SOURCES = [
    ("id", "position", "image", "text", "category"),
    ("id", "position"),
    ("id", "text"),
    ("position", "image", "text"),
]


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("fusion", ["sum", "gate"])
def test_folded_rows_give_the_state_of_plain_ones(sources: tuple[str, ...], fusion: str) -> None:
    torch.manual_seed(0)
    for blocks, in_inputs in itertools.product((1, 2, 3), (False, True)):
        config = replace(
            BASE, sources=sources, fusion=fusion, blocks=blocks, position_in_inputs=in_inputs
        )
        model = SequentialRecommender(config, ITEMS, WIDTHS).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        rows_NW = torch.randn(ITEMS + 1, plain_columns(config))
        history_BL, length_B = torch.randint(1, ITEMS + 1, (5, 9)), torch.tensor([1, 3, 9, 5, 2])
        history_BL[torch.arange(9) >= length_B[:, None]] = 0
        with torch.no_grad():
            wanted_BD = model.last(rows_NW, history_BL, length_B)
            rows_NT = RowFolder(model)(rows_NW)
            found_BD = FoldedModel(model).last(rows_NT, history_BL, length_B)
        assert rows_NT.shape == (ITEMS + 1, RowLayout(config).columns)
        torch.testing.assert_close(found_BD, wanted_BD, atol=1e-5, rtol=1e-5)


def test_the_columns_are_those_of_state_queries_keys_and_values() -> None:
    config = replace(BASE, blocks=2)
    first, second = 2 * (16 + 3 * 8) + 16, 2 * (3 * 8)  # queries and keys; values of the first
    assert RowLayout(config).columns == 16 + first + second


def test_large_tables_and_concat_stay_plain_and_say_why() -> None:
    columns = RowLayout(BASE).columns
    most = MOST_BYTES // (4 * columns)
    fits, larger = decide(BASE, most), decide(BASE, most + 1)
    assert (fits.folded, fits.columns) == (True, columns)
    assert (larger.folded, larger.columns) == (False, plain_columns(BASE))
    assert "at most 1024 MiB" in larger.why
    mixed = decide(replace(BASE, fusion="concat"), 100)
    assert not mixed.folded
    assert "concat" in mixed.why
    with pytest.raises(ValueError, match="cannot be folded"):
        FoldedModel(SequentialRecommender(replace(BASE, fusion="concat"), ITEMS, WIDTHS))
