"""The training loop: epochs, validation, early stopping, checkpoints."""

# B batch, L history length, N items

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmsr.bundle.errors import MmsrError
from mmsr.training.architectures import build_model
from mmsr.training.average import WeightAverage
from mmsr.training.batches import Windows, batch_count, epoch_batches, training_windows
from mmsr.training.checkpoint import Progress, RunInfo, save_checkpoint, save_log, save_run_info
from mmsr.training.distributed import (
    current_ranks,
    from_first,
    mean_over_processes,
    parallel,
    require_alive,
)
from mmsr.training.evaluate import model_ranks
from mmsr.training.items import ItemContent, ModalityEncoder, with_category_lists
from mmsr.training.losses import TrainingLoss
from mmsr.training.measure import Stopwatch, peak_memory, with_measured
from mmsr.training.metrics import summarise
from mmsr.training.model import SequentialRecommender
from mmsr.training.negatives import NegativeSampler
from mmsr.training.plan import Padding, Plan, Planner
from mmsr.training.precision import training_dtype
from mmsr.training.schedule import learning_rate
from mmsr.training.selection import METRICS, column_of, logged_masks
from mmsr.training.split import Split
from mmsr.training.training_state import training_state
from mmsr.training.warm_start import WarmStart

ADAM_BETAS = (0.9, 0.98)  # as SASRec's code
# Reading a loss makes the host wait for the GPU, so there it is done now and then.
GPU_STEPS_UNREAD = 50
COMPILED_LENGTHS = 4  # a compiled model is compiled for so many lengths of a batch


class TrainingDivergedError(MmsrError):
    """The loss is no longer a number."""

    exit_code = 5


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the caller wants to hear of: steps (done, of how many, loss) and epochs (log line)."""

    step: Callable[[int, int, float], None]
    epoch: Callable[[dict[str, float]], None]


class Step(nn.Module):
    """The model and its loss as the one module that is called in a step."""

    def __init__(self, model: SequentialRecommender, loss: TrainingLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, content: ItemContent, plan: Plan) -> dict[str, Tensor]:
        """Return the losses by name."""
        losses: dict[str, Tensor] = self.loss(self.model, content, plan)
        return losses


@dataclass(kw_only=True)
class Trainer:
    """Everything that changes while training, and what it is trained on."""

    info: RunInfo
    model: SequentialRecommender
    loss: TrainingLoss
    step: nn.Module  # both of them, in step with the other processes
    optimizer: torch.optim.AdamW
    average: WeightAverage | None
    content: ItemContent
    split: Split
    windows: Windows
    planner: Planner
    progress: Progress
    warm_start: WarmStart | None = None  # what was taken from another run

    def run(self, folder: Path, hooks: Hooks) -> Progress:
        """Train until the epochs are done or validation stops getting better."""
        # By the statistics that the model holds now: once, not at every step.
        self.content = with_category_lists(self.model.item_encoder.standardised(self.content))
        while not self.finished():
            line = self._train(hooks)
            training = training_state(self)
            with self.average.applied() if self.average else nullcontext():
                line |= self._validate()
                self.progress.add(line)
                if current_ranks().first:
                    save_checkpoint(folder, self.model.state_dict(), training, self.progress)
                    save_log(folder, self.progress.log)
                    self.info = with_measured(self.info, self.progress.log)
                    save_run_info(folder, self.info)
            hooks.epoch(line)
        return self.progress

    def finished(self) -> bool:
        """Say whether nothing is left to train."""
        if self.info.selected_by is not None:  # nothing is held out, so nothing can be waited for
            return self.progress.epoch >= self.info.selected_by.epoch
        fit = self.info.recipe.fit
        return (
            self.progress.epoch >= fit.epochs or self.progress.epochs_without_gain() >= fit.patience
        )

    def epoch_limit(self) -> int:
        """Return the number of epochs after which it ends at the latest."""
        selected_by = self.info.selected_by
        return self.info.recipe.fit.epochs if selected_by is None else selected_by.epoch

    def _train(self, hooks: Hooks) -> dict[str, float]:
        config, epoch = self.info.recipe.fit, self.progress.epoch
        steps = batch_count(self.windows, config.batch_size * current_ranks().count)
        watch, device = Stopwatch(), self._device()
        sums = torch.zeros(2, dtype=torch.float64, device=device)  # of losses, of gradient norms
        seed_generators(config.seed, epoch)
        self.model.train()
        for done, plan in enumerate(self._plans(), start=1):
            taken = epoch * steps + done - 1
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(config, taken, steps)
            sums += self._step(plan.to(device))
            if self.average is not None:
                self.average.update(taken)
            if device.type == "cpu" or done % GPU_STEPS_UNREAD == 0 or done == steps:
                hooks.step(done, steps, self._mean_loss(sums, done))
        self._require_finite_weights()
        seconds = watch.seconds()
        return {
            "epoch": epoch + 1,
            "loss": self._mean_loss(sums, steps),
            "learning_rate": self.optimizer.param_groups[0]["lr"],  # of the last step
            "train_s": seconds,
            "sequences_per_s": round(len(self.windows) / seconds, 1),
            **peak_memory(device),
        }

    def _plans(self) -> Iterator[Plan]:
        config, epoch = self.info.recipe.fit, self.progress.epoch
        size = config.batch_size * self.planner.ranks.count
        random = np.random.default_rng([config.seed, epoch, 1])
        for batch in epoch_batches(self.windows, size, config.seed, epoch):
            yield self.planner.plan(batch, random)

    def _step(self, plan: Plan) -> Tensor:
        """Take one step; return its loss and the norm of its gradient [2]."""
        total: Tensor = self.step(self.content, plan)["total"]
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.info.recipe.fit.clip_norm)
        self.optimizer.step()
        return torch.stack([total.detach(), norm]).double()

    def _mean_loss(self, sums: Tensor, steps: int) -> float:
        """Return the mean loss of so many steps; `TrainingDivergedError` if it is no number."""
        require_alive()
        loss, norm = mean_over_processes(sums.tolist())
        for name, value in (("loss", loss), ("gradient", norm)):
            if not math.isfinite(value):
                raise self._diverged(f"the {name} became {value}")
        return loss / steps

    def _require_finite_weights(self) -> None:
        """Raise `TrainingDivergedError` if the last step left a weight that is no number."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        finite = torch.stack([p.detach().isfinite().all() for p in parameters])
        if not bool(finite.all()):
            raise self._diverged("a weight became infinite or no number")

    def _diverged(self, what: str) -> TrainingDivergedError:
        return TrainingDivergedError(
            f"{what} in epoch {self.progress.epoch + 1}; the checkpoint of the last whole epoch is "
            "kept; lower [fit] learning_rate and train again"
        )

    def _validate(self) -> dict[str, float]:
        """Rank the held-out items, in the first process; the others wait for its numbers."""
        if self.info.selected_by is not None:
            return {}
        masks = logged_masks(self.info.recipe.serving.exclude_seen)
        names = [*(column_of(mask, name) for mask in masks for name in METRICS), "validate_s"]
        watch, values = Stopwatch(), [0.0] * len(names)
        if current_ranks().first:
            found = model_ranks(self.model, self.content, self.split, "validation")
            metrics = [summarise(found[mask])[name] for mask in masks for name in METRICS]
            values = [*metrics, watch.seconds()]
        return dict(zip(names, from_first(values), strict=True))

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def build_trainer(
    info: RunInfo, content: ItemContent, split: Split, device: torch.device
) -> Trainer:
    """Make a trainer at epoch 0; the same seed gives the same weights."""
    recipe = info.recipe
    torch.manual_seed(recipe.fit.seed)
    model = build_model(recipe.model, info.items, info.feature_widths)
    for modality, encoder in model.item_encoder.modalities.items():
        assert isinstance(encoder, ModalityEncoder)
        present_N = content.present[modality].clone()
        present_N[torch.from_numpy(split.cold_rows)] = False  # new items are not known beforehand
        encoder.fit_statistics(content.features[modality], present_N)
    dtype = training_dtype(recipe.fit.precision, device)
    counts_N = torch.from_numpy(split.train_counts(info.items))
    loss = TrainingLoss(recipe.model, recipe.loss, info.feature_widths, counts_N, dtype)
    model, loss = model.to(device), loss.to(device)
    compiled = recipe.fit.compile and device.type == "cuda"
    if compiled:
        model.compile(dynamic=False)  # its call; `last` and `table` stay as they are
    average = recipe.fit.average_decay
    return Trainer(
        info=info,
        model=model,
        loss=loss,
        step=parallel(Step(model, loss)),
        optimizer=_optimizer(info, model, loss),
        average=WeightAverage(model, average) if average else None,
        content=move_content(content, device),
        split=split,
        windows=_windows(info, split),
        planner=_planner(info, content, split, compiled),
        progress=Progress(),
    )


def seed_generators(seed: int, epoch: int) -> None:
    """Seed what dropout and negatives draw from, for one epoch of this process."""
    state = np.random.SeedSequence([seed, epoch, current_ranks().rank]).generate_state(2)
    torch.manual_seed(int(state[0]) << 32 | int(state[1]))


def move_content(content: ItemContent, device: torch.device) -> ItemContent:
    """Return the content on `device`."""
    return ItemContent(
        features={m: x.to(device) for m, x in content.features.items()},
        present={m: p.to(device) for m, p in content.present.items()},
    )


def _optimizer(
    info: RunInfo, model: SequentialRecommender, loss: TrainingLoss
) -> torch.optim.AdamW:
    parameters = [p for p in (*model.parameters(), *loss.parameters()) if p.requires_grad]
    return torch.optim.AdamW(
        parameters,
        lr=info.recipe.fit.learning_rate,
        betas=ADAM_BETAS,
        weight_decay=info.recipe.fit.weight_decay,
        fused=True,
    )


def _windows(info: RunInfo, split: Split) -> Windows:
    windows = training_windows(split, info.recipe.model.max_length)
    if len(windows) == 0:
        raise MmsrError(
            "no user has two interactions to train on once the held-out ones are taken away; "
            "more interactions per user are needed"
        )
    return windows


def _planner(info: RunInfo, content: ItemContent, split: Split, compiled: bool) -> Planner:
    model, loss = info.recipe.model, info.recipe.loss
    sampler = padding = None
    if loss.softmax == "sampled":
        counts_N = torch.from_numpy(split.train_counts(info.items))
        sampler = NegativeSampler(counts_N, loss.negatives_power, loss.negatives_corrected)
    if compiled:
        step = -(-model.max_length // COMPILED_LENGTHS)
        lengths = tuple(range(step, step * COMPILED_LENGTHS, step))
        padding = Padding(
            histories=info.recipe.fit.batch_size, lengths=(*lengths, model.max_length)
        )
    return Planner(
        config=loss,
        ranks=current_ranks(),
        present={m: content.present[m].numpy() for m in model.modalities if loss.weight(m) > 0},
        sampler=sampler,
        padding=padding,
    )
