"""Learning rates by step, and the running average of the weights."""

import math

import pytest
import torch

from mmsr.training.average import WeightAverage
from mmsr.training.config import FitConfig
from mmsr.training.schedule import learning_rate

STEPS = 10


def rates(config: FitConfig) -> list[float]:
    return [learning_rate(config, step, STEPS) for step in range(config.epochs * STEPS)]


def test_a_constant_rate_stays_after_the_warm_up() -> None:
    found = rates(FitConfig(epochs=2, learning_rate=0.4, warmup_steps=4))
    assert found[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert found[4:] == [0.4] * 16


def test_linear_and_cosine_fall_to_zero_at_the_end() -> None:
    line = rates(FitConfig(epochs=2, learning_rate=0.4, schedule="linear", warmup_steps=4))
    assert line[4] == 0.4
    assert line[12] == pytest.approx(0.2)
    wave = rates(FitConfig(epochs=2, learning_rate=0.4, schedule="cosine"))
    assert wave[0] == 0.4
    assert wave[5] == pytest.approx(0.2 * (1 + math.cos(math.pi / 4)))
    for falling in (line[4:], wave):
        assert falling == sorted(falling, reverse=True)
        assert 0 < falling[-1] < 0.05
    assert learning_rate(FitConfig(epochs=2, schedule="cosine"), 20, STEPS) == 0


def test_the_average_follows_its_formula_and_comes_and_goes() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    average = WeightAverage(model, decay=0.5)
    expected = 1.0
    for step, value in enumerate((2.0, 4.0, 8.0)):
        torch.nn.init.constant_(model.weight, value)
        average.update(step)
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * value
    with average.applied():
        assert float(model.weight.detach()) == pytest.approx(expected)
    assert float(model.weight.detach()) == 8.0
