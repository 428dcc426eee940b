"""Trains RePlay's SasRec in blocks; see `pacing`. Runs in RePlay's own environment."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning import Trainer, seed_everything  # type: ignore[import-not-found]
from lightning.pytorch.callbacks import LambdaCallback  # type: ignore[import-not-found]
from replay.data import FeatureHint, FeatureType  # type: ignore[import-not-found]
from replay.data.nn import TensorFeatureInfo, TensorSchema  # type: ignore[import-not-found]
from replay.data.nn.parquet import ParquetModule  # type: ignore[import-not-found]
from replay.nn.lightning import LightningModule  # type: ignore[import-not-found]
from replay.nn.lightning.optimizer import OptimizerFactory  # type: ignore[import-not-found]
from replay.nn.loss import CESampled  # type: ignore[import-not-found]
from replay.nn.sequential import (  # type: ignore[import-not-found]
    LengthBucketedQueryEncoder,
    SasRec,
)
from replay.nn.transform import (  # type: ignore[import-not-found]
    TargetAwareAdaptiveTrimTransform,
    UniformNegativeSamplingTransform,
)
from replay.nn.transform.template import (  # type: ignore[import-not-found]
    make_default_sasrec_transforms,
)

from benchmarks.rivals.contestants import Contestant, Shape
from benchmarks.rivals.pacing import Pacer, read_job, take_stdout, tell

BUCKET_SIZE = 32  # windows of similar length that are encoded together
ITEM = "item_id"


def write_parquet(windows: Path, to: Path) -> int:
    """Write one line a window, items counted from 0; return how many items there are."""
    with np.load(windows) as data:
        items = pa.array(data["items"].astype(np.int64) - 1)
        lists = pa.ListArray.from_arrays(pa.array(data["offsets"].astype(np.int32)), items)
        pq.write_table(pa.table({ITEM: lists}), to)
        return int(data["catalogue"])


def schema_of(items: int, width: int) -> Any:
    """Return what RePlay calls a tensor schema: one sequence of items, padded with `items`."""
    return TensorSchema(
        [
            TensorFeatureInfo(
                ITEM,
                is_seq=True,
                feature_type=FeatureType.CATEGORICAL,
                feature_hint=FeatureHint.ITEM_ID,
                cardinality=items,
                padding_value=items,
                embedding_dim=width,
            )
        ]
    )


def data_module(parquet: Path, schema: Any, shape: Shape, who: Contestant) -> Any:
    """Return the loader of the training windows with RePlay's own transforms."""
    items = schema.item_id_features.item().cardinality
    steps = make_default_sasrec_transforms(schema)["train"]
    if who.bucketed:  # before the last step, which groups the features
        steps.insert(2, TargetAwareAdaptiveTrimTransform([ITEM, "positive_labels"]))
    if who.sampled:
        steps.append(UniformNegativeSamplingTransform(items, shape.negatives))
    place = {"shape": shape.max_length + 1, "padding": items}
    return ParquetModule(
        batch_size=shape.batch_size,
        metadata={"train": {ITEM: place}},
        transforms={"train": steps},
        train_path=str(parquet),
    )


def model_of(schema: Any, shape: Shape, who: Contestant) -> Any:
    """Return the model with its optimizer."""
    model = SasRec.from_params(
        schema,
        embedding_dim=shape.width,
        num_heads=shape.heads,
        num_blocks=shape.blocks,
        max_sequence_length=shape.max_length,
        dropout=shape.dropout,
    )
    if who.bucketed:
        model.body.encoder = LengthBucketedQueryEncoder(model.body.encoder, BUCKET_SIZE)
    if who.sampled:
        model.loss = CESampled()
        model.loss.logits_callback = model.get_logits
    return LightningModule(model, OptimizerFactory(learning_rate=shape.learning_rate))


def paced_trainer(pacer: Pacer) -> Any:
    """Return a trainer without an end that counts its steps."""

    def step(trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        real_BL = batch["padding_mask"]
        # The padding before a window also has a next item; it counts as no target here.
        targets = int((real_BL & batch["target_padding_mask"][..., 0]).sum())
        if not pacer.step(len(real_BL), targets, real_BL.numel()):
            trainer.should_stop = True

    return Trainer(
        max_epochs=-1,
        limit_val_batches=0,
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
    pa.set_cpu_count(shape.threads)
    seed_everything(shape.seed)
    parquet = Path(sys.argv[1]).with_suffix(".parquet")
    schema = schema_of(write_parquet(Path(job["windows"]), parquet), shape.width)
    model = model_of(schema, shape, who)
    tell(
        answers,
        {
            "versions": {name: version(name) for name in ("replay-rec", "torch", "numpy")},
            "parameters": sum(p.numel() for p in model.parameters()),
            "items": schema.item_id_features.item().cardinality,
        },
    )
    loader = data_module(parquet, schema, shape, who)
    paced_trainer(Pacer(sys.stdin, answers)).fit(model, loader)


if __name__ == "__main__":
    main()
