"""Trains MMSR in blocks, as `mmsr-train fit` does; see `pacing`.

Forms: "sasrec" is ids with positions added to the inputs and a feed-forward layer as wide as the
model, as the rivals have it; "ids" is the recipe ml1m-ids.toml; "all" is ml1m.toml on random
features as large as VGG-16's pooled conv5 and MiniLM's, with the data's own categories.
"""

import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.rivals.contestants import Contestant, Shape
from benchmarks.rivals.pacing import Pacer, read_job, take_stdout, tell
from mmsr.training.allocator import keep_freed_memory
from mmsr.training.checkpoint import RunInfo
from mmsr.training.config import FitConfig, LossConfig, ModelConfig, Recipe
from mmsr.training.content import feature_widths
from mmsr.training.dataset import Dataset, open_dataset
from mmsr.training.fit import Hooks, Trainer, build_trainer
from mmsr.training.items import ItemContent, category_multi_hot
from mmsr.training.machine import describe_machine
from mmsr.training.model import count_parameters
from mmsr.training.plan import Plan
from mmsr.training.run import provenance
from mmsr.training.split import make_split

RANDOM_FEATURES = {"image": 512, "text": 384}
RECIPE_FEEDFORWARD = 4  # x width, as ml1m.toml


class StoppedError(Exception):
    """The other side wants no more blocks."""


def recipe(shape: Shape, who: Contestant) -> Recipe:
    """Return the recipe of a contestant."""
    sasrec, everything = who.form == "sasrec", who.form == "all"
    sources = ("id",) if sasrec else ("id", "position")
    model = ModelConfig(
        sources=(*sources, "image", "text", "category") if everything else sources,
        position_in_inputs=sasrec,
        width=shape.width,
        side_width=shape.width,
        blocks=shape.blocks,
        heads=shape.heads,
        feedforward_width=shape.width * (1 if sasrec else RECIPE_FEEDFORWARD),
        max_length=shape.max_length,
        dropout=shape.dropout,
        attention_dropout=shape.dropout if who.attention_dropout else 0.0,
        modality_dropout=0.0 if sasrec else 0.1,
        id_dropout=0.0 if sasrec else 0.1,
    )
    loss = LossConfig(
        softmax="sampled" if who.sampled else "full",
        negatives=shape.negatives,
        negatives_power=0.0,
    )
    fit = FitConfig(batch_size=shape.batch_size, learning_rate=shape.learning_rate, seed=shape.seed)
    return Recipe(model=model, loss=loss, fit=fit)


def content(dataset: Dataset, model: ModelConfig) -> ItemContent:
    """Return random features of every item, and its categories."""
    random = torch.Generator().manual_seed(0)
    rows = dataset.info.items + 1
    features = {
        m: torch.rand(rows, RANDOM_FEATURES[m], generator=random)
        for m in model.modalities
        if m in RANDOM_FEATURES
    }
    if "category" in model.modalities:
        place = {name: at for at, name in enumerate(dataset.info.categories)}
        lists = dataset.item_table(["categories"])["categories"].to_pylist()
        named = [[], *([place[c] for c in names or []] for names in lists)]
        features["category"] = category_multi_hot(named, len(place))
    present = {m: torch.arange(rows) > 0 for m in features}
    return ItemContent(features=features, present=present)


def trainer(job: dict[str, Any], shape: Shape, who: Contestant) -> Trainer:
    """Build what `mmsr-train fit` would."""
    dataset, wanted = open_dataset(Path(job["data"])), recipe(shape, who)
    known = content(dataset, wanted.model)
    info = RunInfo(
        recipe=wanted,
        data_folder=str(dataset.folder),
        data_hash=dataset.info.content_hash,
        items=dataset.info.items,
        features={},
        content_hashes={},
        feature_widths=feature_widths(known),
        provenance=provenance(),
    )
    return build_trainer(info, known, make_split(dataset, wanted.split), torch.device("cpu"))


def pad_values() -> None:
    """Give every attention values as wide as its queries and keys, so that torch may fuse it."""
    attend = F.scaled_dot_product_attention

    def padded(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        width = value.shape[-1]
        wide = F.pad(value, (0, query.shape[-1] - width))
        return attend(query, key, wide, **options)[..., :width]

    F.scaled_dot_product_attention = padded  # type: ignore[assignment]


def train(running: Trainer, pacer: Pacer, folder: Path) -> None:
    """Take steps for as long as they are wanted, fewer than an epoch: its end would validate."""
    sizes: list[tuple[int, int, int]] = []

    def look(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        plan: Plan = arguments[1]
        windows, length = plan.history_BL.shape
        sizes[:] = [(windows, len(plan.target_M), windows * length)]

    def step(done: int, steps: int, loss: float) -> None:
        if not pacer.step(*sizes[0]):
            raise StoppedError

    running.step.register_forward_pre_hook(look)
    running.run(folder, Hooks(step=step, epoch=lambda line: None))


def main() -> None:
    """Do the job that the command line names."""
    answers, job = take_stdout(), read_job()
    shape, who = Shape(**job["shape"]), Contestant(**job["contestant"])
    torch.set_num_threads(shape.threads)
    keep_freed_memory()
    if who.padded_values:
        pad_values()
    running = trainer(job, shape, who)
    tell(
        answers,
        {
            "versions": {name: version(name) for name in ("mmsr", "torch", "numpy")},
            "parameters": count_parameters(running.model) + count_parameters(running.loss),
            "items": running.info.items,
            "commit": running.info.provenance["commit"],
            "machine": asdict(describe_machine()),
        },
    )
    try:
        train(running, Pacer(sys.stdin, answers), Path(sys.argv[1]).with_suffix(""))
    except StoppedError:
        return


if __name__ == "__main__":
    main()
