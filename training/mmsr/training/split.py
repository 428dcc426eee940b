"""Which interactions are trained on, validated on and tested on.

Leave-one-out: per user the last interaction is for the test, the one before for validation; users
with fewer than three are trained on whole and never evaluated. Temporal: everybody's interactions
are cut at two moments; per user the first one after a cut is held out.

Cold items, if the recipe asks for them, stand in no training part, no history and no validation:
only as targets of the test, so that they can be ranked as items that are new.
"""

# U users, T interactions, N items, E evaluated users

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from mmsr.training.config import SplitConfig
from mmsr.training.dataset import DataError, Dataset

Part = Literal["validation", "test"]
PARTS: tuple[Part, ...] = ("validation", "test")
MIN_EVALUATED = 3  # interactions: one to train on, one to validate, one to test


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Of every user at most one interaction, and where the history before it ends."""

    target_U: npt.NDArray[np.int32]  # item rows; 0: the user is not evaluated
    history_end_U: npt.NDArray[np.int64]  # in `Split.items_T`


@dataclass(frozen=True, kw_only=True)
class Split:
    """What is read of every user, how far it is trained on, and what is held out."""

    items_T: npt.NDArray[np.int32]  # users one after another; without the cold items
    offsets: npt.NDArray[np.int64]  # [U + 1]
    train_end_U: npt.NDArray[np.int64]  # where each user's training part ends in `items_T`
    validation: HeldOut
    test: HeldOut
    cold_rows: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def users(self) -> int:
        """Return the number of users."""
        return len(self.offsets) - 1

    def held_out(self, part: Part) -> HeldOut:
        """Return what is held out for a part."""
        return self.validation if part == "validation" else self.test

    def evaluated(self, part: Part = "test") -> npt.NDArray[np.int64]:
        """Return the indices [E] of the users that take part; leave-one-out: in both parts."""
        return np.flatnonzero(self.held_out(part).target_U)

    def history(self, user: int, part: Part) -> npt.NDArray[np.int32]:
        """Return what the model may read of a user before the held-out item of `part`."""
        return self.items_T[self.offsets[user] : self.held_out(part).history_end_U[user]]

    def target(self, user: int, part: Part) -> int:
        """Return the held-out item row; 0 if the user takes no part."""
        return int(self.held_out(part).target_U[user])

    def train_counts(self, items: int) -> npt.NDArray[np.int64]:
        """Return [N + 1], how often each item row stands in the training part."""
        end_T = np.repeat(self.train_end_U, np.diff(self.offsets))
        trained_T = np.arange(len(self.items_T)) < end_T
        counts: npt.NDArray[np.int64] = np.bincount(self.items_T[trained_T], minlength=items + 1)
        return counts


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Places in a dataset's own sequences, before the cold items are taken out."""

    train_end_U: npt.NDArray[np.int64]
    held_out_U: dict[Part, npt.NDArray[np.int64]]  # what lies before it may be read
    evaluated_U: dict[Part, npt.NDArray[np.bool_]]


def make_split(dataset: Dataset, config: SplitConfig) -> Split:
    """Split prepared data; `DataError` if nobody can be evaluated or the data do not allow it."""
    places = _by_time(dataset, config) if config.kind == "temporal" else _last_two(dataset)
    cold_N = _cold_items(dataset, places, config)
    split = _without_cold(dataset, places, cold_N)
    for part in PARTS:
        if len(split.evaluated(part)) == 0:
            raise DataError(f"{dataset.folder}: nobody can be evaluated: {_nobody(part, config)}")
    return split


def leave_one_out(dataset: Dataset) -> Split:
    """Split by the last two interactions of every user."""
    return make_split(dataset, SplitConfig())


def _last_two(dataset: Dataset) -> _Places:
    long_U = np.diff(dataset.offsets) >= MIN_EVALUATED
    test_U = dataset.offsets[1:] - long_U
    validation_U = test_U - long_U
    return _Places(
        train_end_U=validation_U,
        held_out_U={"validation": validation_U, "test": test_U},
        evaluated_U={"validation": long_U, "test": long_U},
    )


def _by_time(dataset: Dataset, config: SplitConfig) -> _Places:
    """Cut at two quantiles of all times; what lies at a cut belongs to the earlier part."""
    if _times_are_positions(dataset):
        raise DataError(
            f"{dataset.folder}: [split] kind = 'temporal' needs one clock for all users, but here "
            "every user's times are the places 0, 1, 2, ... in the user's own order; prepare the "
            "data from a log with real timestamps, or take kind = 'leave-one-out'"
        )
    shares = (1 - config.test_share - config.validation_share, 1 - config.test_share)
    cuts = np.quantile(dataset.times_T, shares, method="lower")
    begin_U, end_U = np.asarray(dataset.offsets[:-1]), np.asarray(dataset.offsets[1:])
    first_U, second_U = (begin_U + _count_until(dataset, cut) for cut in cuts)
    return _Places(
        train_end_U=first_U,
        held_out_U={"validation": first_U, "test": second_U},
        evaluated_U={
            # What lies after the second cut is the test's alone.
            "validation": (begin_U < first_U) & (first_U < second_U),
            "test": (begin_U < second_U) & (second_U < end_U),
        },
    )


def _times_are_positions(dataset: Dataset) -> bool:
    offsets = np.asarray(dataset.offsets)
    places_T = np.arange(len(dataset.items_T)) - np.repeat(offsets[:-1], np.diff(offsets))
    return bool(np.array_equal(dataset.times_T, places_T))


def _count_until(dataset: Dataset, cut: float) -> npt.NDArray[np.int64]:
    """Return [U], how many of a user's interactions are not later than `cut`."""
    until = np.concatenate([[0], np.cumsum(dataset.times_T <= cut)])
    counts: npt.NDArray[np.int64] = np.diff(until[dataset.offsets])
    return counts


def _cold_items(dataset: Dataset, places: _Places, config: SplitConfig) -> npt.NDArray[np.bool_]:
    """Return [N + 1], drawn among the items that somebody's test asks for."""
    items = dataset.info.items
    cold_N = np.zeros(items + 1, dtype=bool)
    wanted = round(items * config.cold_share)
    if wanted == 0:
        return cold_N
    asked_for = np.unique(dataset.items_T[places.held_out_U["test"][places.evaluated_U["test"]]])
    if wanted >= len(asked_for):
        raise DataError(
            f"{dataset.folder}: [split] cold_share = {config.cold_share} of {items} items is "
            f"{wanted}, but only {len(asked_for)} are asked for in the test and some of them must "
            "stay; take a smaller share"
        )
    random = np.random.default_rng(config.cold_seed)
    cold_N[random.choice(asked_for, wanted, replace=False)] = True
    return cold_N


def _without_cold(dataset: Dataset, places: _Places, cold_N: npt.NDArray[np.bool_]) -> Split:
    items_T = dataset.items_T
    kept = np.arange(len(items_T) + 1)  # how many interactions before each place are kept
    if cold_N.any():
        keep_T = ~cold_N[items_T]
        kept, items_T = np.concatenate([[0], np.cumsum(keep_T)]), items_T[keep_T]
    offsets = kept[dataset.offsets]

    def held_out(part: Part) -> HeldOut:
        at_U = places.held_out_U[part]
        target_U = dataset.items_T[np.where(places.evaluated_U[part], at_U, 0)]
        evaluated_U = places.evaluated_U[part] & (kept[at_U] > offsets[:-1])
        if part == "validation":
            evaluated_U &= ~cold_N[target_U]
        return HeldOut(target_U=np.where(evaluated_U, target_U, 0), history_end_U=kept[at_U])

    return Split(
        items_T=items_T,
        offsets=offsets,
        train_end_U=kept[places.train_end_U],
        validation=held_out("validation"),
        test=held_out("test"),
        cold_rows=np.flatnonzero(cold_N),
    )


def _nobody(part: Part, config: SplitConfig) -> str:
    if config.kind == "temporal":
        return (
            f"no user has interactions both before the {part} cut and after it; take larger shares "
            "in [split], or kind = 'leave-one-out'"
        )
    if config.cold_share > 0:
        return f"with the cold items removed no user is left for the {part}; take a smaller share"
    return (
        f"no user has {MIN_EVALUATED} interactions or more; leave-one-out needs one to train on, "
        "one to validate and one to test"
    )
