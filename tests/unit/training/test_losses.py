"""Each loss against its formula written out."""

import math

import torch

from mmsr.training.config import LossConfig, ModelConfig
from mmsr.training.items import ItemContent
from mmsr.training.losses import TrainingLoss, catalogue_softmax, category_loss, info_nce
from mmsr.training.model import SequentialRecommender


def test_catalogue_softmax_leaves_the_padding_row_out() -> None:
    torch.manual_seed(0)
    states, outputs = torch.randn(3, 4), torch.randn(6, 4)
    targets = torch.tensor([1, 5, 2])
    expected = 0.0
    for state, target in zip(states, targets, strict=True):
        scores = [float(state @ outputs[row]) for row in range(1, 6)]
        expected -= scores[int(target) - 1] - math.log(sum(math.exp(s) for s in scores))
    loss = catalogue_softmax(states, outputs, targets)
    assert math.isclose(float(loss), expected / 3, rel_tol=1e-5)
    outputs[0] = 1e4
    assert torch.equal(loss, catalogue_softmax(states, outputs, targets))


def test_category_loss_is_the_mean_binary_cross_entropy_of_items_with_categories() -> None:
    logits = torch.tensor([[0.5, -1.0], [2.0, 3.0]])
    wanted = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    p = torch.sigmoid(logits[0])
    expected = -(math.log(float(p[0])) + math.log(1 - float(p[1]))) / 2
    loss = category_loss(logits, wanted, torch.tensor([True, False]))
    assert math.isclose(float(loss), expected, rel_tol=1e-5)
    nobody = category_loss(logits, wanted, torch.tensor([False, False]))
    assert float(nobody) == 0.0


def test_info_nce_is_the_log_softmax_of_the_right_candidate() -> None:
    predicted = torch.nn.functional.normalize(torch.randn(2, 3), dim=1)
    wanted = torch.nn.functional.normalize(torch.randn(4, 3), dim=1)
    index = torch.tensor([2, 0])
    expected = 0.0
    for row, right in zip(predicted, index, strict=True):
        similar = [float(row @ w) / 0.2 for w in wanted]
        expected -= similar[int(right)] - math.log(sum(math.exp(s) for s in similar))
    assert math.isclose(float(info_nce(predicted, wanted, index, 0.2)), expected / 2, rel_tol=1e-4)


def make_loss(config: LossConfig) -> tuple[TrainingLoss, SequentialRecommender, ItemContent]:
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
    return TrainingLoss(model_config, config, 3), model.eval(), content


def test_the_total_is_the_weighted_sum() -> None:
    config = LossConfig(image_weight=0.3, text_weight=0.2, category_weight=5.0)
    loss, model, content = make_loss(config)
    history, target = torch.randint(1, 21, (4, 6)), torch.randint(1, 21, (4, 6))
    parts = loss(model, content, history, target)
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
    parts = loss(model, content, torch.randint(1, 21, (2, 6)), torch.randint(1, 21, (2, 6)))
    assert set(parts) == {"total", "item", "category"}
    assert set(loss.predict) == {"category"}


def test_targets_without_the_modality_take_no_part_in_its_loss() -> None:
    loss, model, content = make_loss(LossConfig())
    history, target = torch.randint(1, 21, (4, 6)), torch.randint(1, 21, (4, 6))
    content.present["image"][:] = False
    parts = loss(model, content, history, target)
    assert float(parts["image"].detach()) == 0.0
    assert float(parts["text"].detach()) > 0.0
