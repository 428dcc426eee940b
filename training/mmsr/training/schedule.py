"""The learning rate of every step. Knows nothing of optimisers."""

import math

from mmsr.training.config import FitConfig


def learning_rate(config: FitConfig, step: int, epoch_steps: int) -> float:
    """Return the learning rate of a step (0 is the first of the whole training).

    It rises over the first `warmup_steps`, then stays, or falls to 0 at the end of the last of
    [fit] epochs: in a straight line, or as half a cosine (Loshchilov and Hutter 2017, eq. 5).
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    left_steps = max(1, config.epochs * epoch_steps - config.warmup_steps)
    done = min(1.0, (step - config.warmup_steps) / left_steps)
    if config.schedule == "linear":
        return config.learning_rate * (1 - done)
    if config.schedule == "cosine":
        return config.learning_rate * (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate
