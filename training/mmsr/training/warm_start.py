"""Begins a training with the weights of another run, whose catalogue may be another.

A weight is copied where name and shape agree. Rows that stand for an item or a category are found
by its name. The weights that read a modality's features are kept together with the statistics of
those features, or neither is, when the features are made in another way.
"""

# N items, D width, C categories

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mmsr.training.checkpoint import (
    RunError,
    RunInfo,
    RunRef,
    checkpoint_folder,
    load_run_info,
    load_tensors,
    run_ref,
)
from mmsr.training.config import ModelConfig
from mmsr.training.features.specs import without_place
from mmsr.training.run_names import RunNames, load_names
from mmsr.training.training_state import Restorable, loss_tensors

SHOWN = 4  # names of weights in one line
IDS = "item_encoder.ids.weight"
# Rows and columns that stand for categories, and in which dimension they do.
BY_CATEGORY = {
    "item_encoder.modalities.category.project.weight": 1,
    "loss.predict.category.weight": 0,
    "loss.predict.category.bias": 0,
}
# Categories have no statistics; these are constants.
UNUSED = tuple(f"item_encoder.modalities.category.{n}" for n in ("mean_F", "std_F"))
Names = tuple[RunNames, RunNames]  # of the run before, and now
Infos = tuple[RunInfo, RunInfo]


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """How many names of one kind both runs have, and how many only one of them."""

    mapped: int
    new: int
    dropped: int


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What a training has taken over."""

    source: RunRef
    copied: list[str]  # weights
    new: list[str]
    dropped: list[str]
    items: Mapping
    categories: Mapping
    new_item_rows: str  # where they begin

    def lines(self) -> list[str]:
        """Return one line for each of copied, mapped, new and dropped."""
        items, categories = self.items, self.categories
        return [
            f"begins with {self.source.run}, epoch {self.source.epoch}",
            f"  copied   {len(self.copied)} weights of equal name and shape",
            f"  mapped   {items.mapped} items and {categories.mapped} categories by name",
            f"  new      {items.new} items ({self.new_item_rows}), {categories.new} categories"
            + _listed(self.new),
            f"  dropped  {items.dropped} items, {categories.dropped} categories"
            + _listed(self.dropped),
        ]


@torch.no_grad()
def warm_start(trainer: Restorable, names: RunNames, source: RunRef) -> WarmStart:
    """Copy what fits into a trainer at epoch 0; the optimizer begins anew.

    `names` are those of the trainer's data. Raises `RunError` for a run of another width or
    architecture.
    """
    run = Path(source.run)
    before, now = load_run_info(run), trainer.info
    require_fitting(before, now, run)
    folder = checkpoint_folder(run, "best")
    found = load_tensors(folder / "model.safetensors")
    found |= _as_predictors(loss_tensors(load_tensors(folder / "training.safetensors")))
    target = _weights(trainer.model, trainer.loss)
    old_names = load_names(run, before)
    by_name = _map_rows(target, found, (before, now), (old_names, names))
    stale = _stale(before, now)
    copied = [
        name
        for name, tensor in target.items()
        if name in found and name not in by_name and not name.startswith(stale)
        if found[name].shape == tensor.shape
    ]
    for name in copied:
        target[name].copy_(found[name])
    taken = {*copied, *by_name}
    if trainer.average is not None:
        trainer.average.reset()
    return WarmStart(
        source=source,
        copied=copied,
        new=[name for name in target if name not in taken],
        dropped=[name for name in found if name not in taken],
        items=_mapping(old_names.items, names.items),
        categories=_mapping(old_names.categories, names.categories),
        new_item_rows="as the unknown item" if _unknown_is_trained(before) else "at random",
    )


def source_of(run: Path, now: RunInfo) -> RunRef:
    """Return the checkpoint to begin with; `RunError` if it does not fit or would give away
    what is held out.
    """
    before = load_run_info(run)
    require_fitting(before, now, run)
    if before.selected_by is not None and now.selected_by is None:
        raise RunError(
            f"{run} is a final run: it was trained on all interactions, also on those that this "
            "one holds out, and its metrics would be worth nothing; begin with the run that it "
            f"was selected by: {before.selected_by.run}"
        )
    return run_ref(run)


def require_fitting(before: RunInfo, now: RunInfo, run: Path) -> None:
    """Raise `RunError` if nothing of a run's weights can be of use."""
    for key in ("architecture", "width"):
        old, new = getattr(before.recipe.model, key), getattr(now.recipe.model, key)
        if old != new:
            raise RunError(
                f"[model] {key} = {new!r}, but {run} has {old!r}; a run can begin only with the "
                f"weights of one of the same {key}: change the recipe, or begin without it"
            )


def _weights(model: nn.Module, loss: nn.Module) -> dict[str, Tensor]:
    """Return every weight and statistic, those of the loss by the names that a run has them by."""
    return {**model.state_dict(), **_as_predictors(loss.state_dict())}


def _as_predictors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"loss.{name}": value for name, value in tensors.items()}


def _stale(before: RunInfo, now: RunInfo) -> tuple[str, ...]:
    """Return how the names begin of the weights that read or predict features of another kind."""
    prefixes = []
    for modality in now.recipe.model.modalities:
        if modality != "category" and not _same_features(before, now, modality):
            encoder = f"item_encoder.modalities.{modality}"
            prefixes += [f"{encoder}.{part}" for part in ("project", "mean_F", "std_F", "whiten")]
        if before.recipe.loss.kind(modality) != now.recipe.loss.kind(modality) or (
            now.recipe.loss.kind(modality) in ("cosine", "mse")
            and not _same_features(before, now, modality)
        ):
            prefixes.append(f"loss.predict.{modality}")
    return tuple(prefixes)


def _same_features(before: RunInfo, now: RunInfo, modality: str) -> bool:
    """Say whether a number means the same in both runs' features."""
    same_scale = before.recipe.model.whiten == now.recipe.model.whiten
    one, other = (without_place(info.features.get(modality)) for info in (before, now))
    return same_scale and one == other


def _map_rows(
    target: dict[str, Tensor],
    found: dict[str, Tensor],
    infos: tuple[RunInfo, RunInfo],
    names: Names,
) -> set[str]:
    """Copy what stands for items and categories, name by name; return those weights' names."""
    before, now = infos
    old, new = names
    mapped = {IDS, *UNUSED}
    if "id" in before.recipe.model.sources and "id" in now.recipe.model.sources:
        start = found[IDS][0] if _unknown_is_trained(before) else None
        target[IDS][0].copy_(found[IDS][0])
        _copy_rows(target[IDS][1:], found[IDS][1:], old.items, new.items, start)
    for name, dimension in BY_CATEGORY.items():
        if name not in found or name not in target or not old.categories or not new.categories:
            continue
        into, origin = target[name].movedim(dimension, 0), found[name].movedim(dimension, 0)
        if into.shape[1:] == origin.shape[1:]:
            _copy_rows(into, origin, old.categories, new.categories, None)
            mapped.add(name)
    return mapped


def _copy_rows(
    into: Tensor, origin: Tensor, old: Sequence[str], new: Sequence[str], start: Tensor | None
) -> None:
    """Copy the rows whose names both have; the others begin at `start`, or stay as they are."""
    place = {name: row for row, name in enumerate(old)}
    at = torch.tensor([place.get(name, -1) for name in new])
    known = at >= 0
    into[known] = origin[at[known]].to(into.device)
    if start is not None:
        into[~known] = start.to(into.device)


def _unknown_is_trained(before: RunInfo) -> bool:
    model: ModelConfig = before.recipe.model
    return "id" in model.sources and model.id_dropout > 0


def _mapping(old: Sequence[str], new: Sequence[str]) -> Mapping:
    both = len({*old} & {*new})
    return Mapping(mapped=both, new=len(new) - both, dropped=len(old) - both)


def _listed(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f", {len(names)} weights: {', '.join(names[:SHOWN])}{more}"
