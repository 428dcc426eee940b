"""A training run on disk: safetensors and JSON, written whole or not at all.

RUN/run.json                        recipe, data and features that the run was begun with
RUN/checkpoint.json                 which checkpoint is the last, which the best
RUN/checkpoints/epoch-0007/         model.safetensors, training.safetensors, state.json
RUN/names.parquet                   what the rows of the id table and of the categories stand for
RUN/log.csv, RUN/evaluation.json    one line an epoch; the metrics of `mmsr-train evaluate`
"""

import csv
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmsr.bundle.errors import MmsrError, one_line
from mmsr.bundle.files import atomic_path, read_json, sha256_file, sync_directory, write_json
from mmsr.training.config import Recipe, parse_recipe, recipe_to_dict
from mmsr.training.selection import selecting_value

RUN_FORMAT = 1


class RunError(MmsrError):
    """A run's folder is missing, damaged or not what the command expects."""


@dataclass(frozen=True, kw_only=True)
class RunRef:
    """A checkpoint that another run is made from."""

    run: str  # absolute
    checkpoint: str  # the name of its folder
    epoch: int
    sha256: str  # of its model.safetensors


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """`run.json`."""

    format: int = RUN_FORMAT
    recipe: Recipe
    data_folder: str  # absolute
    data_hash: str
    items: int
    features: dict[str, Any]  # encoder spec per modality
    content_hashes: dict[str, str]  # of the features themselves, per modality
    feature_widths: dict[str, int]
    provenance: dict[str, Any]  # versions, commit, machine, and what the training cost
    init_from: RunRef | None = None  # whose weights it begins with
    selected_by: RunRef | None = None  # a final run: trained on all, as long as this one was best


@dataclass(kw_only=True)
class Progress:
    """Where training stands after a whole number of epochs."""

    epoch: int = 0  # epochs done
    best_epoch: int = 0
    best_ndcg: float = -1.0
    log: list[dict[str, float]] = field(default_factory=list)

    def add(self, line: dict[str, float]) -> None:
        """Take in an epoch; without validation, the last one is the best."""
        self.epoch += 1
        self.log.append(line)
        ndcg = selecting_value(line)
        if ndcg is None or ndcg > self.best_ndcg:
            self.best_ndcg = self.best_ndcg if ndcg is None else ndcg
            self.best_epoch = self.epoch

    def epochs_without_gain(self) -> int:
        """Return how many epochs have passed since the best one."""
        return self.epoch - self.best_epoch


def save_run_info(run: Path, info: RunInfo) -> None:
    """Write `run.json`."""
    write_json(run / "run.json", {**asdict(info), "recipe": recipe_to_dict(info.recipe)})


def load_run_info(run: Path) -> RunInfo:
    """Read `run.json`."""
    path = run / "run.json"
    if not path.is_file():
        raise RunError(
            f"{run} holds no training run (no run.json); "
            f"make one with: mmsr-train fit CONFIG.toml --data DATA --out {run}"
        )
    raw = read_json(path, "a training run")
    if not isinstance(raw, dict) or raw.get("format") != RUN_FORMAT:
        raise RunError(f"{path}: unknown format; this release reads {RUN_FORMAT}; train again")
    try:
        parsed: dict[str, Any] = {"recipe": parse_recipe(raw["recipe"], str(path))}
        for key in ("init_from", "selected_by"):
            parsed[key] = RunRef(**raw[key]) if raw.get(key) else None
        return RunInfo(**{**raw, **parsed})
    except (KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error!r}); train again") from None


def run_ref(run: Path) -> RunRef:
    """Return a reference to the best checkpoint of a run."""
    folder = checkpoint_folder(run, "best")
    return RunRef(
        run=str(run.resolve()),
        checkpoint=folder.name,
        epoch=load_progress(folder).epoch,
        sha256=sha256_file(folder / "model.safetensors"),
    )


def sweep(run: Path) -> None:
    """Remove what a killed process left half written."""
    for path in [*run.glob(".*.tmp"), *run.glob("checkpoints/.*.tmp")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def save_log(run: Path, log: list[dict[str, float]]) -> None:
    """Write `log.csv`; a column that an epoch has nothing for is empty there."""
    names = list(dict.fromkeys(name for line in log for name in line))
    with atomic_path(run / "log.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=names)
        writer.writeheader()
        writer.writerows(log)


def folder_name(epoch: int) -> str:
    """Return the name of an epoch's checkpoint folder."""
    return f"epoch-{epoch:04d}"


def save_checkpoint(
    run: Path, model: dict[str, Tensor], training: dict[str, Tensor], progress: Progress
) -> None:
    """Write the checkpoint of `progress.epoch`, make it the last, drop those no longer needed."""
    root = run / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    name = folder_name(progress.epoch)
    temporary = root / f".{name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for what, tensors in (("model", model), ("training", training)):
        _save_tensors(tensors, temporary / f"{what}.safetensors")
    write_json(temporary / "state.json", asdict(progress))
    for path in temporary.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(root / name, ignore_errors=True)  # of an attempt that never became the last
    os.rename(temporary, root / name)
    sync_directory(root)
    keep = {name, folder_name(progress.best_epoch)}
    best = folder_name(progress.best_epoch) if progress.best_epoch else name
    write_json(run / "checkpoint.json", {"last": name, "best": best})
    for path in root.iterdir():
        if path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(_contiguous(tensors), path)
    except SafetensorError as error:  # no space, for instance: it is no OSError
        path.unlink(missing_ok=True)
        raise RunError(
            f"{path} cannot be written ({one_line(error)}); the checkpoints before it are whole: "
            "go on with --resume"
        ) from None


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}


def checkpoint_folder(run: Path, which: str) -> Path:
    """Return the folder of the "last" or the "best" checkpoint."""
    path = run / "checkpoint.json"
    if not path.is_file():
        raise RunError(f"{run} has no checkpoint yet; let mmsr-train fit finish an epoch")
    pointers = read_json(path, "the checkpoints of a run")
    folder = run / "checkpoints" / str(pointers.get(which))
    if not (folder / "model.safetensors").is_file():
        raise RunError(f"{folder} is missing or incomplete; train again with a new --out")
    return folder


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is unreadable ({error}); train again") from None
    return tensors


def load_progress(folder: Path) -> Progress:
    """Read a checkpoint's `state.json`."""
    raw = read_json(folder / "state.json", "the state of a checkpoint")
    try:
        return Progress(**raw)
    except TypeError as error:
        raise RunError(f"{folder / 'state.json'} is damaged ({error}); train again") from None


def load_weights(module: torch.nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Load every weight; `RunError` if names or shapes differ."""
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise RunError(f"{where} does not fit the recipe of its run: {first}") from None
