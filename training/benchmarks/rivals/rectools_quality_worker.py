"""Trains RecTools' SASRec until its validation stops getting better, resumably.

Runs in RecTools' own environment. Beside the job's file: checkpoint.pt, the last epoch; states.npz,
the best epoch's user and item vectors, whose products are the scores; log.csv.
"""

# U users, E of them evaluated, N items, D width, L history length

import csv
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import Trainer, seed_everything  # type: ignore[import-not-found]
from pytorch_lightning.callbacks import LambdaCallback  # type: ignore[import-not-found]
from rectools.models import SASRecModel  # type: ignore[import-not-found]
from rectools.models.nn.item_net import IdEmbeddingsItemNet  # type: ignore[import-not-found]

from benchmarks.rivals.pacing import peak_rss_mib, read_job
from benchmarks.rivals.published import Published
from benchmarks.rivals.rectools_worker import interactions

USERS_PER_CALL = 256
RECALL_AT = 10
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Everybody's interactions as rows, and who validates."""

    items_T: npt.NDArray[np.int32]
    offsets: Ints
    test_end_U: Ints  # where the history before the test item ends
    evaluated_E: Ints
    validating: Ints  # users
    catalogue: int

    def training(self) -> Any:
        """Return RecTools' data set of all that may be trained on."""
        end_U = self.test_end_U.copy()
        end_U[self.validating] -= 1
        user_T = np.repeat(np.arange(len(end_U)), np.diff(self.offsets))
        kept_T = np.arange(len(user_T)) < end_U[user_T]
        kept_U = np.bincount(user_T[kept_T], minlength=len(end_U))
        return interactions(self.items_T[kept_T], np.concatenate([[0], np.cumsum(kept_U)]))


@dataclass(kw_only=True)
class Progress:
    """Where the training stands after a whole number of epochs."""

    epoch: int = 0
    best_epoch: int = 0
    best_recall: float = -1.0
    losses: list[float] = field(default_factory=list)  # of the epoch that runs
    began_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training and the folder that it is kept in."""

    folder: Path
    sequences: Sequences
    settings: Published
    epochs: int
    model: Any
    progress: Progress
    weights: dict[str, Any]  # of a stopped run, until they are taken over

    def begin_epoch(self, trainer: Any, module: Any) -> None:
        """Take over a stopped run's weights before the first step."""
        if self.weights:
            module.load_state_dict(self.weights["model"])
            trainer.optimizers[0].load_state_dict(self.weights["optimizer"])
            self.weights.clear()
        self.progress.losses.clear()
        self.progress.began_s = time.perf_counter()

    def end_epoch(self, trainer: Any, module: Any) -> None:
        """Validate, save, and stop if nothing is to be gained any more."""
        progress = self.progress
        train_s = time.perf_counter() - progress.began_s
        progress.epoch += 1
        module.eval()
        recall = self._recall(module)
        if recall > progress.best_recall:
            progress.best_recall, progress.best_epoch = recall, progress.epoch
            self._save_states(module)
        module.train()
        self._save(trainer, module)
        self._log(recall, train_s)
        if self.finished():
            trainer.should_stop = True

    def finished(self) -> bool:
        """Say whether nothing is left to train."""
        progress = self.progress
        waited = progress.epoch - progress.best_epoch
        return progress.epoch >= self.epochs or waited >= self.settings.patience

    def _recall(self, module: Any) -> float:
        """Return the unmasked Recall@10 of the validation users' held-out items."""
        sequences, internal_N = self.sequences, self._internal_rows()
        at_E = sequences.test_end_U[sequences.validating] - 1
        target_E = torch.from_numpy(internal_N[sequences.items_T[at_E]])
        state_ED, items_ND = self._vectors(module, sequences.validating, at_E)
        scores_EN = state_ED @ items_ND.T
        best_EK = scores_EN.topk(RECALL_AT, dim=1).indices
        return float((best_EK == target_E[:, None]).any(1).float().mean())

    @torch.no_grad()
    def _vectors(self, module: Any, users: Ints, end_E: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the users' states [E, D] after their histories and the item vectors."""
        network, length = module.torch_model, self.settings.max_length
        items_ND = network.item_model.get_all_embeddings()
        history_EL = self._histories(users, end_E, length)
        states = [
            network.encode_sessions({"x": part.to(module.device)}, items_ND)[:, -1, :]
            for part in torch.from_numpy(history_EL).split(USERS_PER_CALL)
        ]
        return torch.cat(states).cpu(), items_ND.cpu()

    def _histories(self, users: Ints, end_E: Ints, length: int) -> Ints:
        """Return the newest items that RecTools knows, by its own numbers, left-padded with 0."""
        internal_N = self._internal_rows()
        history_EL = np.zeros((len(users), length), dtype=np.int64)
        for line_L, user, end in zip(history_EL, users, end_E, strict=True):
            known = internal_N[self.sequences.items_T[self.sequences.offsets[user] : end]]
            known = known[known > 0][-length:]
            line_L[length - len(known) :] = known
        return history_EL

    def _internal_rows(self) -> Ints:
        """Return RecTools' number of each of our rows; 0, its padding, for those never trained."""
        external = self.model.data_preparator.get_known_item_ids().astype(np.int64)
        internal_N = np.zeros(self.sequences.catalogue + 1, dtype=np.int64)
        internal_N[external] = np.arange(1, len(external) + 1)
        return internal_N

    def _save_states(self, module: Any) -> None:
        users = self.sequences.evaluated_E
        state_ED, items_ND = self._vectors(module, users, self.sequences.test_end_U[users])
        internal_N = self._internal_rows()
        with _replacing(self.folder / "states.npz").open("wb") as file:
            np.savez(
                file,
                states=state_ED.numpy(),
                items=items_ND.numpy()[internal_N],
                known=internal_N > 0,
                users=users,
                epoch=self.progress.epoch,
            )
        _replace(self.folder / "states.npz")

    def _save(self, trainer: Any, module: Any) -> None:
        state = {
            "model": module.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict(),
            "epoch": self.progress.epoch,
            "best_epoch": self.progress.best_epoch,
            "best_recall": self.progress.best_recall,
        }
        torch.save(state, _replacing(self.folder / "checkpoint.pt"))
        _replace(self.folder / "checkpoint.pt")

    def _log(self, recall: float, train_s: float) -> None:
        path = self.folder / "log.csv"
        line = {
            "epoch": self.progress.epoch,
            "loss": round(float(np.mean(self.progress.losses)), 5),
            "validation_recall@10_unmasked": round(recall, 5),
            "best_epoch": self.progress.best_epoch,
            "train_s": round(train_s, 1),
            "peak_rss_mib": round(peak_rss_mib()),
        }
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, line)
            if new:
                writer.writeheader()
            writer.writerow(line)


def _replacing(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _replace(path: Path) -> None:
    os.replace(_replacing(path), path)


def stopped_run(folder: Path) -> tuple[Progress, dict[str, Any]]:
    """Return where a run was stopped and its weights; the beginning and none if it is new."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return Progress(), {}
    state = torch.load(path, weights_only=True)
    progress = Progress(**{k: state[k] for k in ("epoch", "best_epoch", "best_recall")})
    return progress, {k: state[k] for k in ("model", "optimizer")}


def read_sequences(folder: Path, settings: Published) -> Sequences:
    """Read what `quality` has written and draw the users that validate."""
    with np.load(folder / "sequences.npz") as data:
        evaluated_E = data["evaluated"]
        random = np.random.default_rng(settings.seed)
        count = min(settings.validation_users, len(evaluated_E))
        return Sequences(
            items_T=data["items"],
            offsets=data["offsets"],
            test_end_U=data["test_end"],
            evaluated_E=evaluated_E,
            validating=np.sort(random.choice(evaluated_E, count, replace=False)),
            catalogue=int(data["catalogue"]),
        )


def trainer_of(run: list[Run], device: str, precision: str) -> Any:
    """Return a trainer whose hooks belong to the one run in the list, once it is there."""

    def step(trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        run[0].progress.losses.append(float(outputs["loss"]))

    return Trainer(
        max_epochs=-1,
        accelerator=device,
        precision=precision,
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[
            LambdaCallback(
                on_train_epoch_start=lambda trainer, module: run[0].begin_epoch(trainer, module),
                on_train_batch_end=step,
                on_train_epoch_end=lambda trainer, module: run[0].end_epoch(trainer, module),
            )
        ],
    )


def main() -> None:
    """Train the job that the command line names."""
    job = read_job()
    settings, folder = Published(**job["settings"]), Path(job["folder"])
    torch.set_num_threads(job["threads"])
    progress, weights = stopped_run(folder)
    seed_everything(settings.seed + progress.epoch)
    runs: list[Run] = []
    model = SASRecModel(
        n_blocks=settings.blocks,
        n_heads=settings.heads,
        n_factors=settings.width,
        dropout_rate=settings.dropout,
        session_max_len=settings.max_length,
        batch_size=settings.batch_size,
        lr=settings.learning_rate,
        loss="softmax",
        item_net_block_types=(IdEmbeddingsItemNet,),
        get_trainer_func=lambda: trainer_of(runs, job["device"], job["precision"]),
    )
    run = Run(
        folder=folder,
        sequences=read_sequences(folder, settings),
        settings=settings,
        epochs=job["epochs"],
        model=model,
        progress=progress,
        weights=weights,
    )
    runs.append(run)
    if not run.finished():
        model.fit(run.sequences.training())


if __name__ == "__main__":
    main()
