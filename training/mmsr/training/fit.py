"""The training loop: epochs, validation, early stopping, checkpoints, resume."""

# B batch, L history length

import csv
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.files import atomic_path
from mmsr.training.average import WeightAverage
from mmsr.training.batches import Batch, Windows, batch_count, epoch_batches, training_windows
from mmsr.training.checkpoint import (
    Progress,
    RunInfo,
    checkpoint_folder,
    load_progress,
    load_tensors,
    load_weights,
    save_checkpoint,
)
from mmsr.training.evaluate import model_ranks
from mmsr.training.items import ItemContent, ModalityEncoder
from mmsr.training.losses import TrainingLoss
from mmsr.training.metrics import summarise
from mmsr.training.model import SequentialRecommender
from mmsr.training.schedule import learning_rate
from mmsr.training.split import LeaveOneOut

ADAM_BETAS = (0.9, 0.98)  # as SASRec's code
RNG_KEY = "rng.cpu"


class TrainingDivergedError(MmsrError):
    """The loss is no longer a number."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the caller wants to hear of: steps (done, of how many, loss) and epochs (log line)."""

    step: Callable[[int, int, float], None]
    epoch: Callable[[dict[str, float]], None]


@dataclass(kw_only=True)
class Trainer:
    """Everything that changes while training."""

    info: RunInfo
    model: SequentialRecommender
    loss: TrainingLoss
    optimizer: torch.optim.AdamW
    average: WeightAverage | None
    content: ItemContent
    split: LeaveOneOut
    windows: Windows
    progress: Progress

    def run(self, folder: Path, hooks: Hooks) -> Progress:
        """Train until the epochs are done or validation stops getting better."""
        config = self.info.recipe.fit
        while self.progress.epoch < config.epochs:
            if self.progress.epochs_without_gain() >= config.patience:
                break
            line = self._train(hooks)
            training = self._training_state()
            with self.average.applied() if self.average else nullcontext():
                line |= self._validate()
                self._record(line)
                save_checkpoint(folder, self.model.state_dict(), training, self.progress)
            _write_log(folder / "log.csv", self.progress.log)
            hooks.epoch(line)
        return self.progress

    def _train(self, hooks: Hooks) -> dict[str, float]:
        config = self.info.recipe.fit
        steps = batch_count(self.windows, config.batch_size)
        first = self.progress.epoch * steps
        began = time.perf_counter()
        total = 0.0
        self.model.train()
        batches = epoch_batches(self.windows, config.batch_size, config.seed, self.progress.epoch)
        for done, batch in enumerate(batches):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(config, first + done, steps)
            total += self._step(batch)
            if self.average is not None:
                self.average.update(first + done)
            hooks.step(done + 1, steps, total / (done + 1))
        return {
            "epoch": self.progress.epoch + 1,
            "loss": total / steps,
            "train_s": round(time.perf_counter() - began, 3),
        }

    def _validate(self) -> dict[str, float]:
        began = time.perf_counter()
        found = model_ranks(self.model, self.content, self.split, "validation")
        metrics = summarise(found["masked"])
        return {
            "validation.masked.ndcg@10": metrics["ndcg@10"],
            "validation.masked.recall@10": metrics["recall@10"],
            "validate_s": round(time.perf_counter() - began, 3),
        }

    def _step(self, batch: Batch) -> float:
        device = next(self.model.parameters()).device
        losses = self.loss(
            self.model,
            self.content,
            torch.from_numpy(batch.history_BL).to(device),
            torch.from_numpy(batch.target_BL).to(device),
        )
        total: Tensor = losses["total"]
        value = float(total.detach())
        if not math.isfinite(value):
            raise self._diverged(f"the loss became {value}")
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.info.recipe.fit.clip_norm)
        if not math.isfinite(float(norm)):
            raise self._diverged(f"the gradient became {float(norm)}")
        self.optimizer.step()
        return value

    def _diverged(self, what: str) -> TrainingDivergedError:
        return TrainingDivergedError(
            f"{what} in epoch {self.progress.epoch + 1}; the checkpoint of the last whole epoch is "
            "kept; lower [fit] learning_rate and train again"
        )

    def _record(self, line: dict[str, float]) -> None:
        self.progress.epoch += 1
        self.progress.log.append(line)
        if line["validation.masked.ndcg@10"] > self.progress.best_ndcg:
            self.progress.best_ndcg = line["validation.masked.ndcg@10"]
            self.progress.best_epoch = self.progress.epoch

    def _training_state(self) -> dict[str, Tensor]:
        tensors = {RNG_KEY: torch.get_rng_state()}
        tensors |= {f"loss.{name}": value for name, value in self.loss.state_dict().items()}
        if self.average is not None:  # the model that is saved is the averaged one
            current = self.average.current
            tensors |= {f"current.{name}": p.detach().clone() for name, p in current.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
        if torch.cuda.is_available():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        return tensors

    def restore(self, run: Path) -> None:
        """Continue from the last checkpoint: weights, optimizer, random state, early stopping."""
        folder = checkpoint_folder(run, "last")
        load_weights(self.model, load_tensors(folder / "model.safetensors"), folder)
        tensors = load_tensors(folder / "training.safetensors")
        self.progress = load_progress(folder)
        loss = {k.removeprefix("loss."): v for k, v in tensors.items() if k.startswith("loss.")}
        load_weights(self.loss, loss, folder)
        if self.average is not None:
            self._restore_average(tensors)
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        torch.set_rng_state(tensors[RNG_KEY])
        if torch.cuda.is_available() and "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"])

    @torch.no_grad()
    def _restore_average(self, tensors: dict[str, Tensor]) -> None:
        assert self.average is not None
        for name, parameter in self.average.current.items():
            self.average.averaged[name].copy_(parameter)
            parameter.copy_(tensors[f"current.{name}"])


def build_trainer(
    info: RunInfo, content: ItemContent, split: LeaveOneOut, device: torch.device
) -> Trainer:
    """Make a trainer at epoch 0; the same seed gives the same weights."""
    recipe = info.recipe
    torch.manual_seed(recipe.fit.seed)
    model = SequentialRecommender(recipe.model, info.items, info.feature_widths)
    for modality, encoder in model.item_encoder.modalities.items():
        assert isinstance(encoder, ModalityEncoder)
        encoder.fit_statistics(content.features[modality], content.present[modality])
    counts_N = torch.from_numpy(split.train_counts(info.items))
    loss = TrainingLoss(recipe.model, recipe.loss, info.feature_widths, counts_N)
    model, loss = model.to(device), loss.to(device)
    parameters = [p for p in (*model.parameters(), *loss.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=recipe.fit.learning_rate,
        betas=ADAM_BETAS,
        weight_decay=recipe.fit.weight_decay,
    )
    windows = training_windows(split, recipe.model.max_length)
    if len(windows) == 0:
        raise MmsrError(
            "no user has two interactions to train on once the held-out ones are taken away; "
            "more interactions per user are needed"
        )
    decay = recipe.fit.average_decay
    return Trainer(
        info=info,
        model=model,
        loss=loss,
        optimizer=optimizer,
        average=WeightAverage(model, decay) if decay else None,
        # Standardised by the statistics that the model holds now: once, not at every step.
        content=model.item_encoder.standardised(move_content(content, device)),
        split=split,
        windows=windows,
        progress=Progress(),
    )


def move_content(content: ItemContent, device: torch.device) -> ItemContent:
    """Return the content on `device`."""
    return ItemContent(
        features={m: x.to(device) for m, x in content.features.items()},
        present={m: p.to(device) for m, p in content.present.items()},
    )


def _write_log(path: Path, log: list[dict[str, float]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(log[0]))
        writer.writeheader()
        writer.writerows(log)
