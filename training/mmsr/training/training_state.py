"""Everything that a checkpoint holds beside the model, so that training goes on to the last bit.

There is no random state among it: every epoch seeds the generators anew.
"""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mmsr.training.average import WeightAverage
from mmsr.training.checkpoint import (
    Progress,
    RunInfo,
    checkpoint_folder,
    load_progress,
    load_tensors,
    load_weights,
)
from mmsr.training.losses import TrainingLoss
from mmsr.training.model import SequentialRecommender

LOSS, CURRENT, ADAM = "loss.", "current.", "adam."


class Restorable(Protocol):
    """The parts of a trainer that change."""

    info: RunInfo
    model: SequentialRecommender
    loss: TrainingLoss
    optimizer: torch.optim.AdamW
    average: WeightAverage | None
    progress: Progress


def training_state(trainer: Restorable) -> dict[str, Tensor]:
    """Return the predictors, the optimizer and, if weights are averaged, the current weights."""
    tensors = {f"{LOSS}{name}": value for name, value in trainer.loss.state_dict().items()}
    if trainer.average is not None:  # the model that is saved is the averaged one
        current = trainer.average.current
        tensors |= {f"{CURRENT}{name}": p.detach().clone() for name, p in current.items()}
    for index, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"{ADAM}{index}.{name}": value for name, value in state.items()}
    return tensors


def restore(trainer: Restorable, run: Path) -> None:
    """Continue from the last checkpoint: weights, optimizer, early stopping."""
    folder = checkpoint_folder(run, "last")
    load_weights(trainer.model, load_tensors(folder / "model.safetensors"), folder)
    tensors = load_tensors(folder / "training.safetensors")
    trainer.progress = load_progress(folder)
    load_weights(trainer.loss, loss_tensors(tensors), folder)
    if trainer.average is not None:
        _restore_average(trainer.average, tensors)
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(ADAM):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    trainer.optimizer.load_state_dict({**trainer.optimizer.state_dict(), "state": state})


def loss_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the predictors by their own names."""
    return {k.removeprefix(LOSS): v for k, v in tensors.items() if k.startswith(LOSS)}


@torch.no_grad()
def _restore_average(average: WeightAverage, tensors: dict[str, Tensor]) -> None:
    average.reset()  # the model that was loaded is the averaged one
    for name, parameter in average.current.items():
        parameter.copy_(tensors[f"{CURRENT}{name}"])
