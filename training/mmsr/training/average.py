"""A running average of the weights, which often generalises better than the last ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a model's trained parameters (Polyak and Juditsky 1992).

    The first steps count more, so that the random beginning is soon forgotten: the share that is
    kept is min(decay, (1 + t) / (10 + t)), as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.current = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.averaged = {n: p.detach().clone() for n, p in self.current.items()}

    @torch.no_grad()
    def reset(self) -> None:
        """Begin again from the weights as they are."""
        for name, parameter in self.current.items():
            self.averaged[name].copy_(parameter)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step (0 is the first of the whole training)."""
        keep = min(self.decay, (1 + step) / (10 + step))
        pairs = list(self.averaged.values()), [p.detach() for p in self.current.values()]
        torch._foreach_lerp_(*pairs, 1 - keep)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averaged weights into the model, for as long as the context lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.current.items():
            kept: Tensor = parameter.detach().clone()
            parameter.copy_(self.averaged[name])
            self.averaged[name].copy_(kept)
