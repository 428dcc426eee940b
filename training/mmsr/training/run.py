"""Opens what a training run needs, and a finished run for those who use it."""

import platform
import subprocess
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mmsr.training.architectures import build_model
from mmsr.training.checkpoint import (
    RunError,
    RunInfo,
    checkpoint_folder,
    load_progress,
    load_run_info,
    load_tensors,
    load_weights,
    run_ref,
    save_run_info,
    sweep,
)
from mmsr.training.config import Recipe
from mmsr.training.content import content_hashes, feature_specs, feature_widths, load_content
from mmsr.training.dataset import Dataset, open_dataset
from mmsr.training.distributed import current_ranks
from mmsr.training.features.store import Features, open_features
from mmsr.training.fit import Trainer, build_trainer, move_content
from mmsr.training.items import ItemContent
from mmsr.training.measure import MEASURED
from mmsr.training.model import SequentialRecommender
from mmsr.training.run_names import names_of, save_names
from mmsr.training.split import Split, make_split
from mmsr.training.training_state import restore
from mmsr.training.untrained import forget_untrained
from mmsr.training.warm_start import source_of, warm_start
from mmsr.training.whole_split import nothing_held_out

EARLIER = "earlier"  # in a run's provenance


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """The best checkpoint of a run with its data; untrained items are unknown by id."""

    info: RunInfo
    model: SequentialRecommender  # in evaluation mode
    content: ItemContent
    dataset: Dataset
    split: Split
    checkpoint: Path


def start_run(
    recipe: Recipe, data: Path, out: Path, resume: bool, init_from: Path | None = None
) -> Trainer:
    """Open the data and begin a run in `out`, or go on with the one that is there.

    `init_from` is a run whose weights it begins with.
    """
    dataset = open_dataset(data)
    content, info = describe_run(recipe, dataset)
    return _begin(info, content, dataset, out, resume, init_from)


def start_final(
    selected: Path, data: Path | None, out: Path, resume: bool, init_from: Path | None = None
) -> Trainer:
    """Begin, or go on with, a training by a run's recipe on all interactions.

    It takes as many epochs as the best checkpoint of `selected` had, and begins with the same
    weights as that run did, or with those of `init_from`.
    """
    before = load_run_info(selected)
    if before.selected_by is not None:
        raise RunError(
            f"{selected} is a final run itself; name the run that it was selected by: "
            f"{before.selected_by.run}"
        )
    dataset = open_dataset(data or Path(before.data_folder))
    content, now = describe_run(before.recipe, dataset)
    _require_same(before, now, selected)
    if init_from is None and before.init_from is not None:
        init_from = Path(before.init_from.run)
    info = replace(now, selected_by=run_ref(selected))
    return _begin(info, content, dataset, out, resume, init_from)


def _begin(
    info: RunInfo,
    content: ItemContent,
    dataset: Dataset,
    out: Path,
    resume: bool,
    init_from: Path | None,
) -> Trainer:
    begun = (out / "run.json").exists()
    if begun and not resume:
        raise RunError(f"{out} holds a run already; go on with it by --resume, or name a new --out")
    if begun:
        info = _continued(load_run_info(out), info, out, init_from)
    elif init_from is not None:
        info = replace(info, init_from=source_of(init_from, info))
    trainer = build_trainer(info, content, _split(info, dataset), default_device())
    names = names_of(dataset)
    if begun and (out / "checkpoint.json").exists():
        restore(trainer, out)
    elif info.init_from is not None:
        trainer.warm_start = warm_start(trainer, names, info.init_from)
    if current_ranks().first:  # the others have looked already: building a trainer is done together
        out.mkdir(parents=True, exist_ok=True)
        sweep(out)
        save_names(out, names)
        save_run_info(out, info)
    return trainer


def _continued(before: RunInfo, now: RunInfo, out: Path, init_from: Path | None) -> RunInfo:
    """Return what a run is to be resumed as; `RunError` if it was begun as something else."""
    _require_same(before, now, out)
    if before.selected_by != now.selected_by:
        was, wanted = (_selected(info) for info in (before, now))
        raise RunError(f"{out} was begun as {was}, not as {wanted}; name a new --out")
    source = before.init_from
    if init_from is not None and (source is None or Path(source.run) != init_from.resolve()):
        begun_with = "new weights" if source is None else f"the weights of {source.run}"
        raise RunError(f"{out} was begun with {begun_with}, not with {init_from}; name a new --out")
    at_start = not (out / "checkpoint.json").exists()
    if source is not None and at_start and run_ref(Path(source.run)) != source:
        raise RunError(f"{source.run}, which {out} begins with, has changed; name a new --out")
    kept = {k: v for k, v in before.provenance.items() if k == MEASURED}
    if not at_start:
        epoch = load_progress(checkpoint_folder(out, "last")).epoch
        kept |= _earlier(before.provenance, now.provenance, epoch)
    return replace(now, init_from=source, provenance=now.provenance | kept)


def _earlier(before: dict[str, Any], now: dict[str, Any], epoch: int) -> dict[str, Any]:
    """Return `earlier`: what the epochs before a resumption were trained with, where that differs.

    One entry for each change, the oldest first; `last_epoch` is the last that was trained with it.
    """
    earlier: list[dict[str, Any]] = before.get(EARLIER, [])
    was = {key: before.get(key) for key in now}
    if was != now:
        earlier = [*earlier, {**was, "last_epoch": epoch}]
    return {EARLIER: earlier} if earlier else {}


def _selected(info: RunInfo) -> str:
    if info.selected_by is None:
        return "a run with a validation"
    return f"the final run of {info.selected_by.run}, {info.selected_by.checkpoint}"


def _split(info: RunInfo, dataset: Dataset) -> Split:
    """Return what a run may and may not train on."""
    if info.selected_by is not None:
        return nothing_held_out(dataset)
    return make_split(dataset, info.recipe.split)


def open_run(run: Path, data: Path | None = None, device: torch.device | None = None) -> TrainedRun:
    """Open a run's best checkpoint; `data` overrides where its prepared data lie."""
    info = load_run_info(run)
    dataset = open_dataset(data or Path(info.data_folder))
    content, described = describe_run(info.recipe, dataset)
    _require_same(info, described, run)
    device = device or default_device()
    model = build_model(info.recipe.model, info.items, info.feature_widths)
    folder = checkpoint_folder(run, "best")
    load_weights(model, load_tensors(folder / "model.safetensors"), folder)
    split = _split(info, dataset)
    forget_untrained(model.item_encoder, split.train_counts(info.items))
    return TrainedRun(
        info=info,
        model=model.to(device).eval(),
        content=move_content(content, device),
        dataset=dataset,
        split=split,
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
        "processes": current_ranks().count,
        "commit": _commit(),
    }


def commits(of: dict[str, Any]) -> str | None:
    """Return the commits that a run's provenance names, in their order, as one text."""
    every = [part["commit"] for part in (*of.get(EARLIER, []), of)]
    return ", ".join(dict.fromkeys(commit for commit in every if commit)) or None


def _commit() -> str | None:
    """Return the commit of the source tree that this module is run from, if it is one."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def describe_run(recipe: Recipe, dataset: Dataset) -> tuple[ItemContent, RunInfo]:
    """Return what a run of the recipe on prepared data would be made from.

    Features must be there if the recipe reads images or texts.
    """
    features = Features(image=None, text=None, settings={})
    if {"image", "text"} & set(recipe.model.modalities):
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
    length: dict[str, Any] = {"patience": before.fit.patience}
    if before.fit.schedule == "constant":  # the others end with the last epoch
        length["epochs"] = before.fit.epochs
    same_length = replace(now, fit=replace(now.fit, **length))
    return [
        f"[{table}] {key}"
        for table in ("model", "loss", "fit", "split")
        for key, value in vars(getattr(same_length, table)).items()
        if value != getattr(getattr(before, table), key)
    ]
