"""DIF-SR as published, but for the defects that are mended: each of them has its test."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_features import write_features
from support.small_shop import write_shop
from torch import Tensor, nn

from mmsr.bundle.errors import MmsrError
from mmsr.training.architectures import build_model, require_exportable
from mmsr.training.baselines.dif_sr import Concat, DifAttention, DifBlock, DifSr, Gate, Sum
from mmsr.training.config import (
    FUSIONS,
    FitConfig,
    LossConfig,
    ModelConfig,
    Recipe,
    parse_recipe,
)
from mmsr.training.fit import Hooks
from mmsr.training.items import ItemContent
from mmsr.training.model import SequentialRecommender, count_parameters
from mmsr.training.run import start_run

ITEMS, CATEGORIES, LENGTH = 30, 5, 9
CONFIG = ModelConfig(
    architecture="dif-sr",
    sources=("id", "position", "category"),
    width=16,
    side_width=8,
    heads=2,
    blocks=2,
    feedforward_width=24,
    max_length=LENGTH,
    content_in_values=False,
    content_in_outputs=False,
    modality_dropout=0.0,
    id_dropout=0.0,
)


def make_content() -> ItemContent:
    random = torch.Generator().manual_seed(3)
    multi_hot = (torch.randn(ITEMS + 1, CATEGORIES, generator=random) > 0).float()
    multi_hot[:3] = 0  # padding, and items without any
    return ItemContent(features={"category": multi_hot}, present={"category": multi_hot.any(1)})


def make_model(fusion: str = "gate") -> SequentialRecommender:
    torch.manual_seed(0)
    config = replace(CONFIG, fusion=fusion)
    model = build_model(config, ITEMS, {"category": CATEGORIES}).eval()
    for parameter in model.parameters():  # away from zeros and symmetry
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def make_histories(batch: int, length: int) -> Tensor:
    return torch.randint(1, ITEMS + 1, (batch, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_earlier_states_do_not_see_later_items_to_the_last_bit(fusion: str) -> None:
    model = make_model(fusion)
    inputs = model.table(make_content()).inputs_nW
    history = make_histories(4, LENGTH)
    for cut in range(1, LENGTH):
        changed = history.clone()
        changed[:, cut:] = torch.flip(changed[:, cut:], dims=[0]) % ITEMS + 1
        before, after = model(inputs, history), model(inputs, changed)
        assert torch.equal(before[:, :cut], after[:, :cut])
        assert not torch.equal(before[:, cut:], after[:, cut:])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_padding_and_neighbours_change_nothing(fusion: str) -> None:
    model = make_model(fusion)
    inputs = model.table(make_content()).inputs_nW
    history, length = make_histories(3, LENGTH), torch.tensor([3, LENGTH, 1])
    padded = torch.where(torch.arange(LENGTH) < length[:, None], history, 0)
    together = model.last(inputs, padded, length)
    for row in range(3):
        n = int(length[row])
        alone = model.last(inputs, history[row : row + 1, :n], length[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)


def heads(x: Tensor) -> Tensor:
    return torch.stack(x.chunk(2, dim=-1), dim=1)


def gated(attention: DifAttention, alone: list[Tensor]) -> Tensor:
    """The gate's two layers with their weights, one source after the other."""
    assert isinstance(attention.fuse, Gate)
    first, second = attention.fuse.score[0], attention.fuse.score[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    marks = []
    for scores in alone:
        full = torch.zeros(*scores.shape[:-1], LENGTH)
        full[..., : scores.shape[-1]] = scores
        hidden = (full @ first.weight.T + first.bias).clamp_min(0)
        marks.append(hidden @ second.weight[0] + second.bias)
    shares = torch.stack(marks).exp()
    shares = shares / shares.sum(0)
    return sum((g[..., None] * a for g, a in zip(shares, alone, strict=True)), torch.zeros(()))


def mixed(attention: DifAttention, alone: list[Tensor]) -> Tensor:
    """The linear layer over all keys of all sources, of which only the real ones are kept."""
    assert isinstance(attention.fuse, Concat)
    length, layer = alone[0].shape[-1], attention.fuse.mix
    total = layer.bias[:length].expand_as(alone[0])
    for at, scores in enumerate(alone):
        weight = layer.weight[:length, at * LENGTH : at * LENGTH + length]
        total = total + scores @ weight.T
    return total


def written_out(attention: DifAttention, x: Tensor, sides: dict[str, Tensor]) -> Tensor:
    """Section 3.3, one source after the other, with the mask before the fusion."""
    visible = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    alone = []
    for source, y in {"id": x, **sides}.items():
        q, k = heads(attention.query[source](y)), heads(attention.key[source](y))
        alone.append((q @ k.transpose(2, 3)).masked_fill(~visible, 0.0))
    if isinstance(attention.fuse, Sum):
        fused = sum(alone, torch.zeros(()))
    else:
        one_of_two = gated if isinstance(attention.fuse, Gate) else mixed
        fused = one_of_two(attention, alone)
    weights = (fused / math.sqrt(8)).masked_fill(~visible, -torch.inf).softmax(-1)
    out: Tensor = attention.out(torch.cat((weights @ heads(attention.value(x))).unbind(1), dim=-1))
    return out


@pytest.mark.parametrize("length", [LENGTH, 4])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_attention_is_its_formula_written_out(fusion: str, length: int) -> None:
    torch.manual_seed(1)
    attention = DifAttention(replace(CONFIG, fusion=fusion), {"position": 16, "category": 8})
    x = torch.randn(2, length, 16)
    sides = {"position": torch.randn(2, length, 16), "category": torch.randn(2, length, 8)}
    torch.testing.assert_close(
        attention.eval()(x, sides), written_out(attention, x, sides), atol=1e-5, rtol=0
    )


def test_blocks_are_post_norm() -> None:
    torch.manual_seed(2)
    block = DifBlock(CONFIG, {"category": 8}).eval()
    x, sides = torch.randn(2, 4, 16), {"category": torch.randn(2, 4, 8)}
    after = block.attention_norm(x + block.attention(x, sides))
    expected = block.feedforward_norm(after + block.feedforward(after))
    torch.testing.assert_close(block(x, sides), expected)


def test_values_come_from_the_ids_alone_and_positions_stay_out_of_the_inputs() -> None:
    model = make_model("sum")
    history = torch.tensor([[4, 9, 4, 20]])
    state, sides = model.embed(model.table(make_content()).inputs_nW, history)
    ids = model.item_encoder.ids.weight[history]
    torch.testing.assert_close(state, model.input_norm(ids))
    assert sides["position"].shape == (1, 4, 16)  # as wide as the ids
    assert sides["category"].shape == (1, 4, 8)


def test_the_side_vector_is_the_sum_over_the_categories_and_zero_without_any() -> None:
    model, content = make_model(), make_content()
    rows = model.table(content).sides["category"]
    table = model.item_encoder.modalities["category"].project.weight.T  # type: ignore[union-attr]
    expected = torch.stack([table[line.bool()].sum(0) for line in content.features["category"]])  # type: ignore[index]
    torch.testing.assert_close(rows, expected)
    assert not bool(rows[:3].any())


def test_every_trained_weight_is_trained_the_category_table_too(tmp_path: Path) -> None:
    shop = write_features(write_shop(tmp_path / "data"))
    loss = LossConfig(category_weight=10.0)
    recipe = Recipe(model=CONFIG, loss=loss, fit=FitConfig(epochs=1, batch_size=16))
    trainer = start_run(recipe, shop, tmp_path / "run", resume=False)
    trained = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert "item_encoder.modalities.category.project.weight" in trained
    before = {name: p.detach().clone() for name, p in trained.items()}
    trainer.run(tmp_path / "run", Hooks(step=lambda *_: None, epoch=lambda _: None))
    same = [name for name, p in trained.items() if torch.equal(p, before[name])]
    assert not same
    assert trainer.loss.config.weight("category") == 10.0


def test_what_the_baseline_does_not_read_is_not_counted_as_trained() -> None:
    model = make_model()
    unused = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert unused == {
        "item_encoder.content.category.weight",
        "item_encoder.modalities.category.missing_S",
    }
    every = sum(p.numel() for p in model.parameters())
    assert count_parameters(model) == every - 16 * 8 - 8


def test_the_recipe_names_the_architecture() -> None:
    assert type(make_model()) is DifSr
    ours = build_model(replace(CONFIG, architecture="mmsr"), ITEMS, {"category": CATEGORIES})
    assert type(ours) is SequentialRecommender


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"content_in_values": True}, r'"dif-sr" goes with content_in_values = false$'),
        ({"id_dropout": 0.1, "score": "cosine"}, r'id_dropout = 0\.0, score = "dot"$'),
        ({"architecture": "bert"}, "architecture = 'bert'; expected one of: mmsr, dif-sr"),
    ],
)
def test_a_recipe_that_is_not_dif_sr_is_refused(changes: dict[str, Any], message: str) -> None:
    tables = {"model": {**vars(CONFIG), **changes}}
    with pytest.raises(MmsrError, match=message):
        parse_recipe(tables, "c.toml")


def test_baselines_and_controls_are_not_exported() -> None:
    with pytest.raises(MmsrError, match="is a baseline to compare with and cannot be exported"):
        require_exportable(CONFIG)
    with pytest.raises(MmsrError, match=r"shuffle = \['text'\] is a control"):
        require_exportable(ModelConfig(shuffle=("text",)))
    require_exportable(ModelConfig())
