"""Trains RecTools' SASRec in blocks; see `pacing`. Runs in RecTools' own environment."""

import sys
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd  # type: ignore[import-untyped]
import torch
from pytorch_lightning import Trainer, seed_everything  # type: ignore[import-not-found]
from pytorch_lightning.callbacks import LambdaCallback  # type: ignore[import-not-found]
from rectools import Columns  # type: ignore[import-not-found]
from rectools.dataset import Dataset  # type: ignore[import-not-found]
from rectools.models import SASRecModel  # type: ignore[import-not-found]
from rectools.models.nn.item_net import IdEmbeddingsItemNet  # type: ignore[import-not-found]

from benchmarks.rivals.contestants import Contestant, Shape
from benchmarks.rivals.pacing import Pacer, read_job, take_stdout, tell


def interactions(items_T: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]) -> Any:
    """Return RecTools' data set; its times only keep the order."""
    length_K = np.diff(offsets)
    step_T = np.arange(len(items_T)) - np.repeat(offsets[:-1], length_K)
    frame = pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(length_K)), length_K),
            Columns.Item: items_T,
            Columns.Datetime: pd.to_datetime(step_T, unit="s"),
            Columns.Weight: 1,
        }
    )
    return Dataset.construct(frame)


def paced_trainer(pacer: Pacer) -> Any:
    """Return a trainer as RecTools makes them, but without an end, that counts its steps."""

    def step(trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        history_BL, target_BL = batch["x"], batch["y"]
        if not pacer.step(len(history_BL), int((target_BL != 0).sum()), history_BL.numel()):
            trainer.should_stop = True

    return Trainer(
        max_epochs=-1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[LambdaCallback(on_train_batch_end=step)],
    )


def main() -> None:
    """Do the job that the command line names."""
    answers, job = take_stdout(), read_job()
    shape, who = Shape(**job["shape"]), Contestant(**job["contestant"])
    torch.set_num_threads(shape.threads)
    seed_everything(shape.seed)
    data = np.load(job["windows"])
    dataset = interactions(data["items"], data["offsets"])

    def trainer() -> Any:
        return paced_trainer(Pacer(sys.stdin, answers))

    model = SASRecModel(
        n_blocks=shape.blocks,
        n_heads=shape.heads,
        n_factors=shape.width,
        dropout_rate=shape.dropout,
        session_max_len=shape.max_length,
        batch_size=shape.batch_size,
        lr=shape.learning_rate,
        loss="sampled_softmax" if who.sampled else "softmax",
        n_negatives=shape.negatives,
        item_net_block_types=(IdEmbeddingsItemNet,),
        get_trainer_func=trainer,
    )
    tell(
        answers,
        {
            "versions": {name: version(name) for name in ("rectools", "torch", "numpy")},
            "items": dataset.item_id_map.size,
        },
    )
    model.fit(dataset)


if __name__ == "__main__":
    main()
