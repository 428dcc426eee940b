"""The network's promises: causality, padding, fusion, missing modalities."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mmsr.training.attention import Block, FusedAttention
from mmsr.training.config import FUSIONS, SOURCES, ModelConfig
from mmsr.training.items import (
    ItemContent,
    ItemRows,
    ModalityEncoder,
    category_multi_hot,
    multi_hot_of,
    with_category_lists,
)
from mmsr.training.model import SequentialRecommender, catalogue_scores, last_states

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


# Every set of sources with one fusion, every fusion with all sources and with two.
FAMILY = [(s, "sum") for s in SOURCE_SETS]
FAMILY += [(s, f) for s in (SOURCES, ("id", "text")) for f in FUSIONS if f != "sum"]


@pytest.mark.parametrize(("sources", "fusion"), FAMILY)
def test_earlier_states_do_not_see_later_items_to_the_last_bit(
    sources: tuple[str, ...], fusion: str
) -> None:
    config = replace(CONFIG, sources=sources, fusion=fusion, position_in_inputs=True)
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


@pytest.mark.parametrize(("sources", "fusion"), FAMILY)
def test_the_last_position_alone_is_the_last_row_of_all_positions(
    sources: tuple[str, ...], fusion: str
) -> None:
    config = replace(CONFIG, sources=sources, fusion=fusion, score="cosine")
    model = make_model(config)
    inputs = model.table(make_content(config)).inputs_nW
    history, length = make_histories(5, 9), torch.tensor([9, 1, 4, 8, 2])
    alone = model.last(inputs, history, length)
    torch.testing.assert_close(
        alone, last_states(model(inputs, history), length), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("fusion", FUSIONS)
def test_padding_and_neighbours_change_nothing(fusion: str) -> None:
    model = make_model(replace(CONFIG, fusion=fusion))
    inputs = model.table(make_content(CONFIG)).inputs_nW
    history, length = make_histories(3, 9), torch.tensor([3, 9, 1])
    padded = torch.where(torch.arange(9) < length[:, None], history, 0)
    together = model.last(inputs, padded, length)
    for row in range(3):
        n = int(length[row])
        alone = model.last(inputs, history[row : row + 1, :n], length[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)


SIDES = ("position", "image", "text", "category")


def heads(x: Tensor) -> Tensor:
    return torch.stack(x.chunk(2, dim=-1), dim=1)


def written_out(
    attention: FusedAttention, x: Tensor, sides: dict[str, Tensor], visible: Tensor
) -> Tensor:
    """Attention per source and its fusion, one source after the other, as the formulas stand."""
    alone = []
    for source, y in {"id": x, **sides}.items():
        q, k = heads(attention.query[source](y)), heads(attention.key[source](y))
        scores = q @ k.transpose(2, 3) / math.sqrt(y.shape[-1] // 2)
        alone.append(scores.masked_fill(~visible, 0.0))
    if attention.fusion == "sum":
        fused = sum(alone, torch.zeros(()))
    elif attention.fusion == "gate":
        gates = attention.gate(attention.query["id"](x)).view(*x.shape[:2], len(alone), 2)
        gates = gates.softmax(2).permute(2, 0, 3, 1)[..., None]
        fused = sum((g * a for g, a in zip(gates, alone, strict=True)), torch.zeros(()))
    else:
        channels = torch.cat(alone, dim=1)
        weight, bias = attention.mix.weight, attention.mix.bias
        fused = torch.einsum("hc,bcqk->bhqk", weight, channels) + bias[:, None, None]
    mixed = fused.masked_fill(~visible, -torch.inf).softmax(-1) @ heads(attention.value(x))
    out: Tensor = attention.out(torch.cat(mixed.unbind(1), dim=-1))
    return out


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fused_attention_is_its_formula_written_out(fusion: str) -> None:
    torch.manual_seed(1)
    attention = FusedAttention(replace(CONFIG, fusion=fusion), SIDES).eval()
    x = torch.randn(2, 6, 16)
    sides = {s: torch.randn(2, 6, 8) for s in SIDES}
    visible = torch.ones(6, 6, dtype=torch.bool).tril()
    fused = attention(x, x, sides, sides, visible)
    expected = written_out(attention, x, sides, visible)
    torch.testing.assert_close(fused, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_attention_weights_are_those_that_mix_the_values(fusion: str) -> None:
    torch.manual_seed(1)
    attention = FusedAttention(replace(CONFIG, fusion=fusion), SIDES).eval()
    x = torch.randn(2, 6, 16)
    sides = {s: torch.randn(2, 6, 8) for s in SIDES}
    visible = torch.ones(6, 6, dtype=torch.bool).tril()
    alone, fused = attention.weights(x, sides, visible)
    assert alone.shape == (2, 5, 2, 6, 6)
    for weights in (alone, fused):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        assert float(weights.detach()[..., ~visible].abs().max()) == 0.0
    mixed = fused @ heads(attention.value(x))
    expected = attention.out(torch.cat(mixed.unbind(1), dim=-1))
    actual = attention(x, x, sides, sides, visible)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_gate_and_concat_begin_as_the_mean_and_the_sum_of_the_sources() -> None:
    torch.manual_seed(2)
    models = {f: SequentialRecommender(replace(CONFIG, fusion=f), ITEMS, WIDTHS) for f in FUSIONS}
    x, sides = torch.randn(2, 6, 16), {s: torch.randn(2, 6, 8) for s in SIDES}
    visible = torch.ones(6, 6, dtype=torch.bool).tril()
    attention = {}
    for fusion, model in models.items():
        block = model.eval().blocks[0]
        assert isinstance(block, Block)
        attention[fusion] = block.attention
        shared = models["sum"].blocks[0].state_dict()
        block.load_state_dict(shared, strict=False)
    total = attention["sum"](x, x, sides, sides, visible)
    torch.testing.assert_close(attention["concat"](x, x, sides, sides, visible), total)
    with torch.no_grad():
        for layer in attention["sum"].query.values():
            for parameter in layer.parameters():
                parameter.div_(5)
    mean = attention["sum"](x, x, sides, sides, visible)
    torch.testing.assert_close(attention["gate"](x, x, sides, sides, visible), mean)


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


@pytest.mark.parametrize("in_values", [True, False])
def test_content_in_one_of_outputs_and_values_leaves_the_other_bare(in_values: bool) -> None:
    config = replace(CONFIG, content_in_values=in_values, content_in_outputs=not in_values)
    model = make_model(config)
    rows = model.table(make_content(config))
    ids_nD = model.item_encoder.ids.weight
    projected_nD = sum(model.item_encoder.content[m](x) for m, x in rows.sides.items())
    inputs_nD = rows.inputs_nW[:, :16]
    bare, with_content = (rows.outputs_nD, inputs_nD) if in_values else (inputs_nD, rows.outputs_nD)
    assert torch.equal(bare, ids_nD)
    torch.testing.assert_close(with_content, ids_nD + projected_nD)


def test_without_the_id_source_every_id_vector_is_zero_and_stays_so() -> None:
    config = replace(CONFIG, sources=("position", "image", "text", "category"))
    torch.manual_seed(0)
    model = SequentialRecommender(config, ITEMS, WIDTHS)
    rows = model.table(make_content(config))
    rows.outputs_nD.sum().backward()
    ids = model.item_encoder.ids.weight
    assert not bool(ids.any())
    assert ids.grad is None
    assert len(torch.unique(rows.outputs_nD, dim=0)) > ITEMS / 2


def test_a_cosine_score_lies_within_one_over_the_temperature() -> None:
    config = replace(CONFIG, score="cosine", score_temperature=0.1)
    model = make_model(config)
    rows = model.table(make_content(config))
    history = make_histories(4, 5)
    scores = catalogue_scores(model(rows.inputs_nW, history)[:, -1], rows.outputs_nD)
    assert float(scores.detach().abs().max()) <= 10.0 + 1e-4
    norms = rows.outputs_nD.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(ITEMS + 1))


def test_positions_in_the_inputs_tell_equal_items_apart() -> None:
    history = torch.tensor([[3, 3, 3, 3]])
    for added in (False, True):
        config = replace(CONFIG, sources=("id",), position_in_inputs=added)
        model = make_model(config)
        states = model(model.table(make_content(config)).inputs_nW, history)[0]
        same = torch.allclose(states[0], states[3], atol=1e-5)
        assert same != added


def test_some_rows_are_those_of_the_whole_table() -> None:
    model, content = make_model(), make_content(CONFIG)
    rows_n = torch.tensor([0, 4, 17, 30])
    whole, some = model.table(content), model.table(content, rows_n)
    torch.testing.assert_close(some.inputs_nW, whole.inputs_nW[rows_n])
    torch.testing.assert_close(some.outputs_nD, whole.outputs_nD[rows_n])


def test_whitened_features_are_uncorrelated_and_of_unit_variance() -> None:
    torch.manual_seed(3)
    features = torch.randn(500, 6) @ torch.randn(6, 6) + 4
    present = torch.arange(500) % 3 > 0
    encoder = ModalityEncoder(6, 4, standardise=True, whiten=True)
    encoder.fit_statistics(features, present)
    known = encoder.standardised(features)[present]
    torch.testing.assert_close(known.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    covariance = torch.cov(known.T, correction=0)
    torch.testing.assert_close(covariance, torch.eye(6), atol=1e-3, rtol=0)


def test_whitening_does_not_blow_up_a_feature_that_never_varies() -> None:
    features = torch.cat([torch.randn(50, 2), torch.full((50, 1), 7.0)], dim=1)
    encoder = ModalityEncoder(3, 4, standardise=True, whiten=True)
    encoder.fit_statistics(features, torch.ones(50, dtype=torch.bool))
    assert float(encoder.standardised(features).abs().max()) < 10


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


def test_a_modality_has_its_own_dropout_or_that_of_all() -> None:
    config = replace(CONFIG, modality_dropout=0.0, text_dropout=0.5, dropout=0.0)
    model = make_model(config).train()
    made = make_content(config)
    everything = {m: torch.ones_like(p) for m, p in made.present.items()}
    content = ItemContent(features=made.features, present=everything)
    for modality, low, high in (("text", 0.2, 0.8), ("image", 0.0, 0.0), ("category", 0.0, 0.0)):
        encoder = model.item_encoder.modalities[modality]
        assert isinstance(encoder, ModalityEncoder)
        sides = [model.table(content).sides[modality] for _ in range(20)]
        missing = [float((side == encoder.missing_S).all(1).float().mean()) for side in sides]
        assert low <= sum(missing) / 20 <= high, modality
    assert replace(config, modality_dropout=0.3).missing_chance("image") == 0.3
    assert replace(config, modality_dropout=0.3, text_dropout=0.0).missing_chance("text") == 0.0


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


def test_listed_categories_give_the_rows_and_gradients_of_the_multi_hot() -> None:
    random = torch.Generator().manual_seed(0)
    multi_hot = (torch.rand(ITEMS + 1, 90, generator=random) < 0.03).float()
    multi_hot[[0, 7]] = 0.0
    content = ItemContent(features={"category": multi_hot}, present={"category": multi_hot.any(1)})
    listed = with_category_lists(content)
    lists = listed.features["category"]
    assert lists.shape == (ITEMS + 1, int(multi_hot.sum(1).max()))
    assert torch.equal(multi_hot_of(lists, 90), multi_hot)
    assert with_category_lists(listed) is listed
    config = replace(CONFIG, sources=("id", "category"))
    torch.manual_seed(0)
    model = SequentialRecommender(config, ITEMS, {"category": 90}).eval()
    weight = model.item_encoder.modalities["category"].get_parameter("project.weight")
    upstream = torch.randn(ITEMS + 1, config.width, generator=random)
    found = []
    for given in (content, listed):
        outputs = model.table(given).outputs_nD
        (gradient,) = torch.autograd.grad((outputs * upstream).sum(), [weight])
        found.append((outputs, gradient))
    for dense, sparse in zip(*found, strict=True):
        assert dense.abs().max() > 0
        torch.testing.assert_close(sparse, dense, atol=1e-6, rtol=1e-5)


def test_categories_that_fill_their_multi_hot_stay_one() -> None:
    multi_hot = torch.ones(3, 5)
    content = ItemContent(features={"category": multi_hot}, present={"category": multi_hot.any(1)})
    assert with_category_lists(content) is content


def test_a_category_named_twice_counts_once() -> None:
    expected = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert torch.equal(category_multi_hot([[1, 2, 1], []], 3), expected)
