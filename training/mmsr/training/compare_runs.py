"""Trains and tests the runs of a comparison one after the other, and skips what is done.

A run is a usual folder of `mmsr-train fit`, so a comparison that was interrupted goes on with it.
Validation alone chooses the epoch; the test is ranked once, when training is over, and the ranks
are kept in the run's ranks.npz.
"""

# U evaluated users

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.files import atomic_path
from mmsr.training.checkpoint import (
    Progress,
    RunInfo,
    checkpoint_folder,
    load_progress,
    load_run_info,
)
from mmsr.training.compare_plan import CompareError, PlannedRun
from mmsr.training.comparison import NotRun
from mmsr.training.evaluate import Ranks, model_ranks
from mmsr.training.fit import Trainer
from mmsr.training.model import count_parameters
from mmsr.training.run import open_run, start_run

RANKS_FILE = "ranks.npz"
GO_ON = "the same command goes on with it"


class TimeIsUpError(Exception):
    """More hours have passed than the comparison may take."""


@dataclass(frozen=True, kw_only=True)
class Tested:
    """The ranks of the test, `ranks.npz` of a run."""

    checkpoint: str  # the name of its folder
    ranks: Ranks
    evaluations: int  # how often the run has been tested: again only if it was lengthened


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run that is trained and tested."""

    planned: PlannedRun
    info: RunInfo
    progress: Progress
    parameters: int
    tested: Tested


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """What the caller does: `train` runs a trainer and shows it, the others only tell."""

    begin: Callable[[PlannedRun, int, int], None]  # the how manieth of how many
    train: Callable[[Trainer, Path, Callable[[], None]], None]  # the last is called every epoch
    testing: Callable[[PlannedRun], None]
    failed: Callable[[PlannedRun, Exception], None]


@dataclass(kw_only=True)
class Runs:
    """The state of a comparison."""

    data: Path
    out: Path
    max_hours: float | None
    callbacks: Callbacks
    clock_s: Callable[[], float] = time.monotonic
    finished: list[FinishedRun] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)

    def run(self, plan: Sequence[PlannedRun]) -> None:
        """Do what is left of the plan; whatever cannot be done is noted with its reason."""
        began_s = self.clock_s()

        def check_time() -> None:
            if self.max_hours is not None and self.clock_s() - began_s >= self.max_hours * 3600:
                raise TimeIsUpError

        for index, planned in enumerate(plan):
            try:
                self.callbacks.begin(planned, index + 1, len(plan))
                self.finished.append(self._finish(planned, check_time))
            except KeyboardInterrupt:
                self._note(planned, f"interrupted{self._until(planned)}; {GO_ON}")
                for missed in plan[index + 1 :]:
                    self._note(missed, f"not reached: interrupted before; {GO_ON}")
                return
            except TimeIsUpError:
                reason = f"--max-hours {self.max_hours:g} reached{self._until(planned)}; {GO_ON}"
                self._note(planned, reason)
            except (MmsrError, OSError, RuntimeError) as error:  # torch raises RuntimeError
                self.callbacks.failed(planned, error)
                self._note(planned, _reason(error))

    def _finish(self, planned: PlannedRun, check_time: Callable[[], None]) -> FinishedRun:
        folder = self.out / planned.folder
        progress = _progress(folder)
        if progress is None or not _trained(planned, folder, progress):
            check_time()
            self._train(planned, folder, check_time)
        return self._tested(planned, folder)

    def _train(self, planned: PlannedRun, folder: Path, check_time: Callable[[], None]) -> None:
        trainer = start_run(planned.recipe, self.data, folder, (folder / "run.json").exists())

        def after_epoch() -> None:
            if not trainer.finished():
                check_time()

        self.callbacks.train(trainer, folder, after_epoch)

    def _tested(self, planned: PlannedRun, folder: Path) -> FinishedRun:
        trained = open_run(folder, self.data)
        tested = load_ranks(folder)
        if tested is None or tested.checkpoint != trained.checkpoint.name:
            self.callbacks.testing(planned)
            tested = Tested(
                checkpoint=trained.checkpoint.name,
                ranks=model_ranks(trained.model, trained.content, trained.split, "test"),
                evaluations=1 + (tested.evaluations if tested else 0),
            )
            save_ranks(folder, tested)
        return FinishedRun(
            planned=planned,
            info=trained.info,
            progress=load_progress(checkpoint_folder(folder, "last")),
            parameters=count_parameters(trained.model),
            tested=tested,
        )

    def _note(self, planned: PlannedRun, reason: str) -> None:
        self.not_run.append(NotRun(name=planned.name, seed=planned.seed, reason=reason))

    def _until(self, planned: PlannedRun) -> str:
        progress = _progress(self.out / planned.folder)
        if progress is None:
            return " before its first epoch was done"
        return f" after epoch {progress.epoch} of {planned.recipe.fit.epochs}"


def save_ranks(run: Path, tested: Tested) -> None:
    """Write `ranks.npz`, whole or not at all."""
    with atomic_path(run / RANKS_FILE) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            checkpoint=np.array(tested.checkpoint),
            evaluations=np.array(tested.evaluations),
            masked=tested.ranks["masked"],
            unmasked=tested.ranks["unmasked"],
        )


def load_ranks(run: Path) -> Tested | None:
    """Read `ranks.npz`; None if the run has not been tested."""
    path = run / RANKS_FILE
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Tested(
                checkpoint=str(arrays["checkpoint"]),
                ranks={mask: arrays[mask] for mask in ("masked", "unmasked")},
                evaluations=int(arrays["evaluations"]),
            )
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise CompareError(
            f"{path} is damaged ({error}); delete it, and the run will be tested again"
        ) from None


def _trained(planned: PlannedRun, folder: Path, progress: Progress) -> bool:
    """Say whether a run is just what is asked for, with nothing left to train."""
    fit = planned.recipe.fit
    if progress.epoch > fit.epochs:
        raise CompareError(
            f"{folder} has {progress.epoch} epochs, more than the {fit.epochs} asked for; "
            "name a new --out"
        )
    over = progress.epoch == fit.epochs or progress.epochs_without_gain() >= fit.patience
    return over and load_run_info(folder).recipe == planned.recipe


def _progress(folder: Path) -> Progress | None:
    if not (folder / "checkpoint.json").is_file():
        return None
    return load_progress(checkpoint_folder(folder, "last"))


def _reason(error: Exception) -> str:
    first = str(error).partition("\n")[0]
    return f"failed: {first}" if isinstance(error, MmsrError) else f"failed: {error!r}"
