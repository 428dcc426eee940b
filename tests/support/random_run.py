"""A run with random weights, as `open_run` gives it, on a log of random histories."""

from pathlib import Path

import numpy as np
import torch
from support.sequences import dataset_of

from mmsr.training.checkpoint import RunInfo
from mmsr.training.config import ModelConfig, Recipe, SplitConfig
from mmsr.training.dataset import Dataset
from mmsr.training.items import ItemContent
from mmsr.training.model import SequentialRecommender
from mmsr.training.run import TrainedRun
from mmsr.training.split import make_split
from mmsr.training.untrained import forget_untrained

ITEMS = 30


def random_log(seed: int, users: int = 40) -> Dataset:
    """Return users with some repeats, of whom a few are too short to be evaluated."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 12, users)
    return dataset_of([random.integers(1, ITEMS + 1, n).tolist() for n in lengths], catalogue=ITEMS)


def random_run(config: SplitConfig, sources: tuple[str, ...] = ("id", "text")) -> TrainedRun:
    """Return a run as `open_run` gives it, with random weights and content."""
    torch.manual_seed(0)
    dataset = random_log(11, users=80)
    split = make_split(dataset, config)
    widths = {"text": 5} if "text" in sources else {}
    model_config = ModelConfig(
        sources=sources, width=8, side_width=4, feedforward_width=8, max_length=6, blocks=1
    )
    model = SequentialRecommender(model_config, ITEMS, widths).eval()
    with torch.no_grad():  # far from each other, so that what is left out is felt
        model.item_encoder.ids.weight.normal_()
        for name, weight in model.named_parameters():
            if name.endswith("missing_S"):
                weight.normal_()
    forget_untrained(model.item_encoder, split.train_counts(ITEMS))
    present = torch.arange(ITEMS + 1) % 5 > 0
    info = RunInfo(
        recipe=Recipe(model=model_config, split=config),
        data_folder="",
        data_hash=dataset.info.content_hash,
        items=ITEMS,
        features={},
        content_hashes={},
        feature_widths=widths,
        provenance={},
    )
    return TrainedRun(
        info=info,
        model=model,
        content=ItemContent(
            features={m: torch.randn(ITEMS + 1, 5) for m in widths},
            present=dict.fromkeys(widths, present),
        ),
        dataset=dataset,
        split=split,
        checkpoint=Path("run/checkpoints/epoch-0001"),
    )
