"""A source left out, against the fusions written out pair by pair."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mmsr.training.attention import Block
from mmsr.training.config import FUSIONS, ModelConfig
from mmsr.training.explain.sources import read_without, sources_of
from mmsr.training.items import ItemContent
from mmsr.training.model import SequentialRecommender

ITEMS = 12
WIDTHS = {"image": 5, "text": 6, "category": 3}
CONFIG = ModelConfig(
    width=8, side_width=4, heads=2, blocks=1, max_length=6, feedforward_width=8, whiten=True
)
HISTORY = torch.tensor([[3, 7, 1, 3, 0, 0], [5, 2, 9, 4, 8, 11]])
LENGTH = torch.tensor([4, 6])


def make_model(config: ModelConfig) -> SequentialRecommender:
    torch.manual_seed(0)
    model = SequentialRecommender(config, ITEMS, WIDTHS).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def content() -> ItemContent:
    torch.manual_seed(1)
    return ItemContent(
        features={m: torch.randn(ITEMS + 1, width) for m, width in WIDTHS.items()},
        present={m: torch.rand(ITEMS + 1) > 0.2 for m in WIDTHS},
    )


def table_of(model: SequentialRecommender) -> Tensor:
    with torch.no_grad():
        return model.table(content()).inputs_nW


def by_hand(
    model: SequentialRecommender, table: Tensor, history: Tensor, absent: str | None
) -> tuple[Tensor, Tensor]:
    """Return state and attention after one history's last item, in a model of one block."""
    [block] = model.blocks
    assert isinstance(block, Block)
    attention, heads = block.attention, model.config.heads
    state, sides = model.embed(table, history[None])
    normed = block.attention_norm(state)
    known = {"id": normed, **sides}
    scores = torch.zeros(len(known), heads, len(history))
    for place, source in enumerate(sources_of(model)):
        for head in range(heads):
            width = attention.widths[source] // heads
            part = slice(head * width, (head + 1) * width)
            query = attention.query[source](known[source])[0, -1, part]
            keys = attention.key[source](known[source])[0, :, part]
            scores[place, head] = (source != absent) * (keys @ query) / width**0.5
    if attention.fusion == "sum":
        fused = scores.sum(0)
    elif attention.fusion == "gate":
        gates = torch.stack(attention.gates(normed))[:, 0, :, -1]
        fused = (gates * scores).sum(0)
    else:
        mix = attention.mix.weight.view(heads, len(known), heads)
        fused = torch.einsum("fsh,shl->fl", mix, scores) + attention.mix.bias[:, None]
    weights = fused.softmax(-1)
    values = attention.value(normed)[0].unflatten(-1, (heads, -1))
    mixed = torch.einsum("hl,lhd->hd", weights, values).flatten()
    last = block._finish(state[0, -1], attention.out(mixed))
    return model._output(last), weights.mean(0)


@pytest.mark.parametrize("in_values", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_a_source_left_out_is_its_attention_set_to_zero(fusion: str, in_values: bool) -> None:
    model = make_model(replace(CONFIG, fusion=fusion, content_in_values=in_values))
    table = table_of(model)
    for absent in (None, *sources_of(model)):
        states, attention = read_without(model, table, HISTORY, LENGTH, absent)
        for user, length in enumerate(LENGTH.tolist()):
            wanted, looks = by_hand(model, table, HISTORY[user, :length], absent)
            torch.testing.assert_close(states[user], wanted, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(attention[user, :length], looks, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_left_out_of_a_sum_is_as_if_the_attention_never_had_the_source() -> None:
    model = make_model(replace(CONFIG, blocks=2))
    kept = tuple(source for source in CONFIG.sources if source != "text")
    smaller = make_model(replace(CONFIG, blocks=2, sources=kept))
    weights = model.state_dict()
    smaller.load_state_dict({name: weights[name] for name in smaller.state_dict()})
    table = table_of(model)
    image = CONFIG.width + CONFIG.side_width  # columns: state, image, text, category
    without_text = torch.cat([table[:, :image], table[:, image + CONFIG.side_width :]], dim=1)
    found, _ = read_without(model, table, HISTORY, LENGTH, "text")
    torch.testing.assert_close(found, smaller.last(without_text, HISTORY, LENGTH))


@torch.no_grad()
def test_nothing_left_out_is_what_serving_computes_and_the_model_stays_as_it_is() -> None:
    model = make_model(replace(CONFIG, fusion="gate", blocks=2))
    table, before = table_of(model), {k: v.clone() for k, v in model.state_dict().items()}
    whole = model.last(table, HISTORY, LENGTH)
    without, _ = read_without(model, table, HISTORY, LENGTH, "image")
    found, attention = read_without(model, table, HISTORY, LENGTH)
    torch.testing.assert_close(found, whole)
    assert (without - whole).abs().max() > 1e-3
    torch.testing.assert_close(attention.sum(1), torch.ones(2))
    assert attention[0, 4:].tolist() == [0.0, 0.0]
    assert all(torch.equal(before[name], after) for name, after in model.state_dict().items())


def test_a_source_that_the_model_does_not_have_is_refused() -> None:
    model = make_model(replace(CONFIG, sources=("text", "id")))
    assert sources_of(model) == ("id", "text")
    with pytest.raises(ValueError, match="'image'; the model has id, text"):
        read_without(model, table_of(model), HISTORY, LENGTH, "image")
