"""Opens what a training run needs, and a finished run for those who use it."""

import platform
import subprocess
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mmsr.training.checkpoint import (
    RunError,
    RunInfo,
    checkpoint_folder,
    load_run_info,
    load_tensors,
    load_weights,
    save_run_info,
)
from mmsr.training.config import Recipe
from mmsr.training.content import content_hashes, feature_specs, feature_widths, load_content
from mmsr.training.dataset import Dataset, open_dataset
from mmsr.training.features.store import open_features
from mmsr.training.fit import Trainer, build_trainer, move_content
from mmsr.training.items import ItemContent
from mmsr.training.model import SequentialRecommender
from mmsr.training.split import leave_one_out


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """The best checkpoint of a run with the data that it was trained on."""

    info: RunInfo
    model: SequentialRecommender  # in evaluation mode
    content: ItemContent
    dataset: Dataset
    checkpoint: Path


def start_run(recipe: Recipe, data: Path, out: Path, resume: bool) -> Trainer:
    """Open the data and begin a run in `out`, or go on with the one that is there."""
    dataset = open_dataset(data)
    content, described = _describe(recipe, dataset)
    if resume:
        _require_same(load_run_info(out), described, out)
    elif (out / "run.json").exists():
        raise RunError(f"{out} holds a run already; go on with it by --resume, or name a new --out")
    trainer = build_trainer(described, content, leave_one_out(dataset), default_device())
    if resume and (out / "checkpoint.json").exists():
        trainer.restore(out)
    out.mkdir(parents=True, exist_ok=True)
    save_run_info(out, described)
    return trainer


def open_run(run: Path, data: Path | None = None, device: torch.device | None = None) -> TrainedRun:
    """Open a run's best checkpoint; `data` overrides where its prepared data lie."""
    info = load_run_info(run)
    dataset = open_dataset(data or Path(info.data_folder))
    content, described = _describe(info.recipe, dataset)
    _require_same(info, described, run)
    device = device or default_device()
    model = SequentialRecommender(info.recipe.model, info.items, info.feature_widths)
    folder = checkpoint_folder(run, "best")
    load_weights(model, load_tensors(folder / "model.safetensors"), folder)
    return TrainedRun(
        info=info,
        model=model.to(device).eval(),
        content=move_content(content, device),
        dataset=dataset,
        checkpoint=folder,
    )


def default_device() -> torch.device:
    """Return the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def provenance() -> dict[str, Any]:
    """Return what is needed to tell later where a number comes from."""
    packages = ("mmsr", "torch", "numpy")
    return {
        "versions": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Return the commit of the source tree that this module is run from, if it is one."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def _describe(recipe: Recipe, dataset: Dataset) -> tuple[ItemContent, RunInfo]:
    features = open_features(dataset)
    content = load_content(dataset, features, recipe.model)
    info = RunInfo(
        recipe=recipe,
        data_folder=str(dataset.folder.resolve()),
        data_hash=dataset.info.content_hash,
        items=dataset.info.items,
        features=feature_specs(features, recipe.model),
        content_hashes=content_hashes(content),
        feature_widths=feature_widths(content),
        provenance=provenance(),
    )
    return content, info


def _require_same(before: RunInfo, now: RunInfo, run: Path) -> None:
    if before.data_hash != now.data_hash:
        raise RunError(
            f"{run} was trained on data {before.data_hash[:12]}…, {now.data_folder} holds "
            f"{now.data_hash[:12]}…; give the data that it was trained on, or train anew"
        )
    changed = [m for m, h in now.content_hashes.items() if before.content_hashes.get(m) != h]
    if changed:
        raise RunError(
            f"{run} was trained on other features ({', '.join(changed)}) than {now.data_folder} "
            "holds now: the images, texts or [features] settings have changed; bring them back "
            "and run mmsr-train features, or train anew"
        )
    changed = _changed_keys(before.recipe, now.recipe)
    if changed:
        raise RunError(
            f"{run} was begun with another recipe (differs in {', '.join(changed)}); only [fit] "
            "patience, and with a constant schedule epochs, may change on --resume; name a new "
            "--out to train anew"
        )


def _changed_keys(before: Recipe, now: Recipe) -> list[str]:
    length = {"patience": before.fit.patience}
    if before.fit.schedule == "constant":  # the others end with the last epoch
        length["epochs"] = before.fit.epochs
    same_length = replace(now, fit=replace(now.fit, **length))
    return [
        f"[{table}] {key}"
        for table in ("model", "loss", "fit")
        for key, value in vars(getattr(same_length, table)).items()
        if value != getattr(getattr(before, table), key)
    ]
