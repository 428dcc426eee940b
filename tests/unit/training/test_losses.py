"""Each loss against its formula written out."""

import math

import numpy as np
import pytest
import torch

from mmsr.training.batches import Batch
from mmsr.training.config import LossConfig, ModelConfig
from mmsr.training.distributed import ALONE
from mmsr.training.items import ItemContent, ModalityEncoder
from mmsr.training.losses import (
    TrainingLoss,
    catalogue_softmax,
    category_loss,
    cosine_loss,
    info_nce,
    sampled_softmax,
)
from mmsr.training.model import SequentialRecommender
from mmsr.training.negatives import Negatives, NegativeSampler
from mmsr.training.plan import Plan, Planner


def test_catalogue_softmax_leaves_the_padding_row_out() -> None:
    torch.manual_seed(0)
    states, outputs = torch.randn(3, 4), torch.randn(6, 4)
    targets = torch.tensor([1, 5, 2])
    expected = 0.0
    for state, target in zip(states, targets, strict=True):
        scores = [float(state @ outputs[row]) for row in range(1, 6)]
        expected -= scores[int(target) - 1] - math.log(sum(math.exp(s) for s in scores))
    loss = catalogue_softmax(states, outputs, targets)
    assert math.isclose(float(loss), expected, rel_tol=1e-5)
    outputs[0] = 1e4
    assert torch.equal(loss, catalogue_softmax(states, outputs, targets))


def test_category_loss_is_the_mean_binary_cross_entropy_over_categories() -> None:
    logits = torch.tensor([[0.5, -1.0], [2.0, 3.0]])
    wanted = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    expected = 0.0
    for p, w in zip(torch.sigmoid(logits).flatten().tolist(), wanted.flatten(), strict=True):
        expected -= math.log(p if w else 1 - p) / 2
    assert math.isclose(float(category_loss(logits, wanted)), expected, rel_tol=1e-5)


def test_an_item_that_nobody_bought_is_no_negative() -> None:
    counts = torch.arange(21)
    counts[7] = 0
    loss, model, content = make_loss(LossConfig(), counts)
    history, target = torch.randint(8, 21, (2, 2, 6))
    loss(model, content, plan(loss, content, history, target))["item"].backward()
    gradient = model.item_encoder.ids.weight.grad
    assert gradient is not None
    untouched = {int(row) for row in (~gradient.any(1)).nonzero()}
    assert untouched == {0, 7}


def test_info_nce_is_the_log_softmax_of_the_right_candidate() -> None:
    predicted = torch.nn.functional.normalize(torch.randn(2, 3), dim=1)
    wanted = torch.nn.functional.normalize(torch.randn(4, 3), dim=1)
    index = torch.tensor([2, 0])
    expected = 0.0
    for row, right in zip(predicted, index, strict=True):
        similar = [float(row @ w) / 0.2 for w in wanted]
        expected -= similar[int(right)] - math.log(sum(math.exp(s) for s in similar))
    assert math.isclose(float(info_nce(predicted, wanted, index, 0.2)), expected, rel_tol=1e-4)


def make_loss(
    config: LossConfig, counts: torch.Tensor | None = None
) -> tuple[TrainingLoss, SequentialRecommender, ItemContent]:
    torch.manual_seed(0)
    model_config = ModelConfig(width=8, side_width=4, feedforward_width=8, max_length=6)
    model = SequentialRecommender(model_config, 20, {"image": 6, "text": 5, "category": 3})
    features = {
        "image": torch.randn(21, 6),
        "text": torch.randn(21, 5),
        "category": (torch.randn(21, 3) > 0).float(),
    }
    present = {m: torch.ones(21, dtype=torch.bool) for m in features}
    content = ItemContent(features=features, present=present)
    widths = {"image": 6, "text": 5, "category": 3}
    counts = torch.arange(21) if counts is None else counts
    return TrainingLoss(model_config, config, widths, counts), model.eval(), content


def plan(
    loss: TrainingLoss, content: ItemContent, history: torch.Tensor, target: torch.Tensor
) -> Plan:
    sampler = NegativeSampler(torch.arange(21), 0.5) if loss.config.softmax == "sampled" else None
    planner = Planner(
        config=loss.config,
        ranks=ALONE,
        present={m: content.present[m].numpy() for m in loss.modalities},
        sampler=sampler,
    )
    batch = Batch(history_BL=history.numpy(), target_BL=target.numpy())
    return planner.plan(batch, np.random.default_rng(0))


def test_the_total_is_the_weighted_sum() -> None:
    config = LossConfig(image_weight=0.3, text_weight=0.2, category_weight=5.0)
    loss, model, content = make_loss(config)
    history, target = torch.randint(1, 21, (4, 6)), torch.randint(1, 21, (4, 6))
    parts = loss(model, content, plan(loss, content, history, target))
    expected = parts["item"] + 0.3 * parts["image"] + 0.2 * parts["text"] + 5.0 * parts["category"]
    torch.testing.assert_close(parts["total"], expected)
    parts["total"].backward()
    trained = {
        n for n, p in [*model.named_parameters(), *loss.named_parameters()] if p.grad is not None
    }
    expected_names = {n for n, _ in [*model.named_parameters(), *loss.named_parameters()]}
    missing_vectors = {n for n in expected_names if n.endswith("missing_S")}
    assert expected_names - missing_vectors <= trained


def test_a_weight_of_zero_leaves_the_loss_and_its_predictor_out() -> None:
    loss, model, content = make_loss(LossConfig(image_weight=0.0, text_weight=0.0))
    parts = loss(model, content, plan(loss, content, *torch.randint(1, 21, (2, 2, 6))))
    assert set(parts) == {"total", "item", "category"}
    assert set(loss.predict) == {"category"}


def test_targets_without_the_modality_take_no_part_in_its_loss() -> None:
    loss, model, content = make_loss(LossConfig())
    history, target = torch.randint(1, 21, (4, 6)), torch.randint(1, 21, (4, 6))
    content.present["image"][:] = False
    parts = loss(model, content, plan(loss, content, history, target))
    assert float(parts["image"].detach()) == 0.0
    assert float(parts["text"].detach()) > 0.0


@pytest.mark.parametrize("kind", ["cosine", "mse"])
def test_a_feature_loss_is_its_formula_on_the_standardised_features(kind: str) -> None:
    loss, model, content = make_loss(
        LossConfig(image_weight=0.0, category_weight=0.0, text_loss=kind)
    )
    history, target = torch.randint(1, 21, (3, 6)), torch.randint(1, 21, (3, 6))
    content.features["text"].copy_(content.features["text"] * 3 + 1)
    encoder = model.item_encoder.modalities["text"]
    assert isinstance(encoder, ModalityEncoder)
    encoder.fit_statistics(content.features["text"], content.present["text"])
    found = float(loss(model, content, plan(loss, content, history, target))["text"].detach())
    states = model(model.table(content).inputs_nW, history).flatten(0, 1)
    predicted = loss.predict["text"](states)
    wanted = (content.features["text"] - encoder.mean_F) / encoder.std_F
    expected = 0.0
    for p, w in zip(predicted, wanted[target.flatten()], strict=True):
        if kind == "cosine":
            expected += 1 - float((p @ w / (p.norm() * w.norm())).detach())
        else:
            expected += float(((p - w) ** 2).mean().detach())
    assert math.isclose(found, expected / 18, rel_tol=1e-4)


def test_a_step_without_any_target_of_a_modality_still_reaches_every_weight() -> None:
    """Else the processes of a training would wait for gradients that never come."""
    loss, model, content = make_loss(LossConfig())
    for modality in content.present:
        content.present[modality][:] = False
    parts = loss(model, content, plan(loss, content, *torch.randint(1, 21, (2, 2, 6))))
    assert [float(parts[m].detach()) for m in loss.modalities] == [0.0, 0.0, 0.0]
    parts["total"].backward()
    assert all(p.grad is not None for p in loss.parameters())


@pytest.mark.parametrize("softmax", ["full", "sampled"])
def test_bfloat16_is_for_blocks_and_scores_and_near_float32(softmax: str) -> None:
    loss, model, content = make_loss(LossConfig(softmax=softmax))
    asked = plan(loss, content, *torch.randint(1, 21, (2, 4, 6)))
    exact = loss(model, content, asked)
    loss.dtype = torch.bfloat16
    rounded = loss(model, content, asked)
    for name, value in exact.items():
        assert rounded[name].dtype == torch.float32
        torch.testing.assert_close(rounded[name], value, rtol=2e-2, atol=2e-2)
    assert not torch.equal(rounded["item"], exact["item"])
    rounded["total"].backward()
    gradient = model.item_encoder.ids.weight.grad
    assert gradient is not None
    assert gradient.dtype == torch.float32


def test_the_cosine_loss_of_equal_directions_is_zero() -> None:
    vectors = torch.randn(4, 3)
    assert abs(float(cosine_loss(vectors, 2.5 * vectors))) < 1e-6
    assert abs(float(cosine_loss(vectors, -vectors)) - 8) < 1e-5


def exhaustive(items: int) -> Negatives:
    """Every item drawn once, and expected once."""
    return Negatives(rows_n=torch.arange(1, items + 1), log_expected_n=torch.zeros(items))


def test_sampled_softmax_over_every_item_is_the_full_softmax() -> None:
    torch.manual_seed(0)
    states, outputs, target = torch.randn(5, 4), torch.randn(9, 4), torch.tensor([1, 8, 3, 3, 5])
    sampled = sampled_softmax(states, outputs[target], target, exhaustive(8), outputs[1:])
    torch.testing.assert_close(sampled, catalogue_softmax(states, outputs, target))


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_sampled_partition_is_unbiased_whatever_the_chances(power: float) -> None:
    """exp(loss) is the partition over the target's term: its mean over draws is the full one."""
    torch.manual_seed(0)
    states, outputs, target = torch.randn(1, 4), torch.randn(9, 4), torch.tensor([2])
    counts = torch.tensor([0, 40, 1, 3, 9, 0, 20, 5, 2])
    sampler = NegativeSampler(counts, power)
    total = 0.0
    for _ in range(1000):
        drawn = sampler(32)
        loss = sampled_softmax(states, outputs[target], target, drawn, outputs[drawn.rows_n])
        total += math.exp(float(loss))
    full = math.exp(float(catalogue_softmax(states, outputs, target, counts == 0)))
    assert abs(total / 1000 / full - 1) < 0.05


def test_negatives_are_drawn_by_purchases_to_the_power_and_never_padding() -> None:
    torch.manual_seed(0)
    sampler = NegativeSampler(torch.tensor([99, 4, 1, 0, 16]), power=0.5)
    drawn = sampler(20_000)
    shares = torch.bincount(drawn.rows_n, minlength=5) / 20_000
    expected = torch.tensor([0.0, 2.0, 1.0, 0.0, 4.0]) / 7
    torch.testing.assert_close(shares, expected, atol=0.02, rtol=0)
    torch.testing.assert_close(
        drawn.log_expected_n.exp(), expected[drawn.rows_n] * 20_000, rtol=1e-4, atol=1e-4
    )


def test_uncorrected_negatives_keep_their_scores() -> None:
    drawn = NegativeSampler(torch.tensor([0, 4, 1, 16]), power=1.0, corrected=False)(50)
    assert not bool(drawn.log_expected_n.any())
    states, outputs, target = torch.randn(3, 4), torch.randn(4, 4), torch.tensor([1, 3, 2])
    loss = sampled_softmax(states, outputs[target], target, drawn, outputs[drawn.rows_n])
    expected = 0.0
    for state, right in zip(states, target, strict=True):
        others = [row for row in drawn.rows_n if row != right]
        scores = torch.stack([state @ outputs[row] for row in [right, *others]])
        expected -= float(scores.log_softmax(0)[0])
    assert math.isclose(float(loss), expected, rel_tol=1e-4)


def test_a_step_with_sampled_softmax_trains_everything_and_skips_dropped_rows() -> None:
    loss, model, content = make_loss(LossConfig(softmax="sampled", negatives=4))
    history, target = torch.randint(1, 6, (4, 6)), torch.randint(1, 6, (4, 6))
    target[:, :2] = 0
    parts = loss(model, content, plan(loss, content, history, target))
    parts["total"].backward()
    gradient = model.item_encoder.ids.weight.grad
    assert gradient is not None
    touched = int(gradient.any(1).sum())
    assert 5 <= touched <= 5 + 4 + 1  # items of the step, negatives, padding
