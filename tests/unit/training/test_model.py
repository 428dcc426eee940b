"""The network's promises: causality, padding, fusion, missing modalities."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mmsr.training.attention import Block, FusedAttention
from mmsr.training.config import SOURCES, ModelConfig
from mmsr.training.items import ItemContent, ItemRows, ModalityEncoder, category_multi_hot
from mmsr.training.model import SequentialRecommender, last_states

ITEMS = 30
WIDTHS = {"image": 12, "text": 10, "category": 5}
CONFIG = ModelConfig(width=16, side_width=8, heads=2, blocks=2, feedforward_width=24, max_length=9)


def make_content(config: ModelConfig, seed: int = 0) -> ItemContent:
    random = torch.Generator().manual_seed(seed)
    features = {m: torch.randn(ITEMS + 1, WIDTHS[m], generator=random) for m in config.modalities}
    if "category" in features:
        features["category"] = (features["category"] > 0).float()
    present = {m: torch.rand(ITEMS + 1, generator=random) > 0.2 for m in config.modalities}
    return ItemContent(features=features, present=present)


def make_model(config: ModelConfig = CONFIG, seed: int = 0) -> SequentialRecommender:
    torch.manual_seed(seed)
    model = SequentialRecommender(config, ITEMS, WIDTHS).eval()
    for parameter in model.parameters():  # away from zeros and symmetry
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def make_histories(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(
        1, ITEMS + 1, (batch, length), generator=torch.Generator().manual_seed(seed)
    )


SOURCE_SETS = [
    SOURCES,
    ("id",),
    ("id", "position"),
    ("id", "text"),
    ("id", "position", "image", "category"),
]


@pytest.mark.parametrize("sources", SOURCE_SETS)
def test_earlier_states_do_not_see_later_items_to_the_last_bit(sources: tuple[str, ...]) -> None:
    config = replace(CONFIG, sources=sources)
    model, content = make_model(config), make_content(config)
    inputs = model.table(content).inputs_nW
    history = make_histories(4, 9)
    for cut in range(1, 9):
        changed = history.clone()
        changed[:, cut:] = torch.flip(changed[:, cut:], dims=[0]) % ITEMS + 1
        assert not torch.equal(changed, history)
        before, after = model(inputs, history), model(inputs, changed)
        assert torch.equal(before[:, :cut], after[:, :cut])
        assert not torch.equal(before[:, cut:], after[:, cut:])


@pytest.mark.parametrize("sources", SOURCE_SETS)
def test_the_last_position_alone_is_the_last_row_of_all_positions(
    sources: tuple[str, ...],
) -> None:
    config = replace(CONFIG, sources=sources)
    model = make_model(config)
    inputs = model.table(make_content(config)).inputs_nW
    history, length = make_histories(5, 9), torch.tensor([9, 1, 4, 8, 2])
    alone = model.last(inputs, history, length)
    torch.testing.assert_close(
        alone, last_states(model(inputs, history), length), atol=1e-5, rtol=0
    )


def test_padding_and_neighbours_change_nothing() -> None:
    model = make_model()
    inputs = model.table(make_content(CONFIG)).inputs_nW
    history, length = make_histories(3, 9), torch.tensor([3, 9, 1])
    padded = torch.where(torch.arange(9) < length[:, None], history, 0)
    together = model.last(inputs, padded, length)
    for row in range(3):
        n = int(length[row])
        alone = model.last(inputs, history[row : row + 1, :n], length[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)


def test_fused_attention_is_the_sum_of_attentions_written_out() -> None:
    torch.manual_seed(1)
    sides = ("position", "image", "text", "category")
    attention = FusedAttention(CONFIG, sides).eval()
    x = torch.randn(2, 6, 16)
    side = {s: torch.randn(2, 6, 8) for s in sides}
    visible = torch.ones(6, 6, dtype=torch.bool).tril()
    fused = attention(x, x, side, side, visible)

    def heads(y: Tensor) -> Tensor:
        return torch.stack(y.chunk(2, dim=-1), dim=1)

    scores = torch.zeros(2, 2, 6, 6)
    for source, y in {"id": x, **side}.items():
        q, k = heads(attention.query[source](y)), heads(attention.key[source](y))
        scores += q @ k.transpose(2, 3) / math.sqrt(y.shape[-1] // 2)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    mixed = weights @ heads(attention.value(x))
    written_out = attention.out(torch.cat(mixed.unbind(1), dim=-1))
    torch.testing.assert_close(fused, written_out, atol=1e-5, rtol=0)


@pytest.mark.parametrize("source", [s for s in SOURCES if s != "id"])
def test_every_source_steers_the_attention(source: str) -> None:
    model = make_model()
    inputs = model.table(make_content(CONFIG)).inputs_nW
    history = make_histories(2, 6)
    before = model(inputs, history)
    for block in model.blocks:
        assert isinstance(block, Block)
        projection = block.attention.query[source]
        torch.nn.init.zeros_(projection.weight)  # type: ignore[arg-type]
        torch.nn.init.zeros_(projection.bias)  # type: ignore[arg-type]
    assert not torch.allclose(before, model(inputs, history), atol=1e-4)


def test_a_missing_modality_is_one_learned_vector_whatever_the_features_say() -> None:
    model, content = make_model(), make_content(CONFIG)
    content.present["image"][:] = False
    rows = model.table(content)
    noisy = ItemContent(
        features={**content.features, "image": torch.randn_like(content.features["image"])},
        present=content.present,
    )
    assert torch.equal(rows.inputs_nW, model.table(noisy).inputs_nW)
    encoder = model.item_encoder.modalities["image"]
    assert torch.equal(rows.sides["image"][3], encoder.missing_S)  # type: ignore[arg-type]


def test_content_in_outputs_and_values_are_switches() -> None:
    content = make_content(CONFIG)
    bare = make_model(replace(CONFIG, content_in_outputs=False, content_in_values=False))
    rows = bare.table(content)
    assert torch.equal(rows.outputs_nD, bare.item_encoder.ids.weight)
    assert torch.equal(rows.inputs_nW[:, :16], bare.item_encoder.ids.weight)
    full = make_model()
    rows = full.table(content)
    projected = sum(full.item_encoder.content[m](x) for m, x in rows.sides.items())
    torch.testing.assert_close(rows.outputs_nD, full.item_encoder.ids.weight + projected)
    torch.testing.assert_close(rows.inputs_nW[:, :16], rows.outputs_nD)


def test_ids_and_modalities_are_dropped_in_training_only() -> None:
    config = replace(CONFIG, id_dropout=0.5, modality_dropout=0.5, dropout=0.0)
    model, content = make_model(config), make_content(config)
    everything = {m: torch.ones_like(p) for m, p in content.present.items()}
    content = ItemContent(features=content.features, present=everything)

    def dropped(rows: ItemRows) -> float:
        encoder = model.item_encoder.modalities["text"]
        assert isinstance(encoder, ModalityEncoder)
        return float((rows.sides["text"] == encoder.missing_S).all(1).float().mean())

    assert dropped(model.table(content)) == 0.0
    assert torch.equal(model.table(content).inputs_nW, model.table(content).inputs_nW)
    model.train()
    shares = [dropped(model.table(content)) for _ in range(50)]
    assert abs(sum(shares) / 50 - 0.5) < 0.05


def test_an_item_with_unknown_id_has_the_id_vector_of_row_zero() -> None:
    config = replace(CONFIG, sources=("id",), id_dropout=0.5)
    model = make_model(config).train()
    rows = model.table(make_content(config))
    ids = model.item_encoder.ids.weight
    unknown = (rows.outputs_nD == ids[0]).all(1)
    kept = (rows.outputs_nD == ids).all(1)
    assert bool((unknown | kept).all())
    assert bool(unknown[1:].any())
    assert bool(kept[1:].any())


def test_features_are_standardised_by_the_items_that_have_them() -> None:
    model, content = make_model(), make_content(CONFIG)
    features, present = content.features["text"] * 7 + 3, content.present["text"]
    encoder = model.item_encoder.modalities["text"]
    assert isinstance(encoder, ModalityEncoder)
    encoder.fit_statistics(features, present)
    scaled = (features[present] - encoder.mean_F) / encoder.std_F
    torch.testing.assert_close(scaled.mean(0), torch.zeros(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(10), atol=1e-5, rtol=0)


def test_a_category_named_twice_counts_once() -> None:
    expected = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert torch.equal(category_multi_hot([[1, 2, 1], []], 3), expected)
