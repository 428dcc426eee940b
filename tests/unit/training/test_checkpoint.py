"""A checkpoint is whole or not there, whenever the process that writes it is stopped."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmsr.training.checkpoint import (
    Progress,
    RunError,
    _save_tensors,
    checkpoint_folder,
    load_progress,
    load_tensors,
    run_ref,
    save_checkpoint,
    save_log,
    sweep,
)

# Everything that save_checkpoint changes the disk with.
CALLS = (
    (os, "fsync"),
    (os, "rename"),
    (os, "replace"),
    (os, "chmod"),
    (shutil, "rmtree"),
    (Path, "mkdir"),
    (Path, "write_text"),
)


class StoppedError(BaseException):
    """Stands for kill -9: nothing catches it."""


def save(run: Path, epoch: int, best: int) -> None:
    tensors = {"w": torch.full((3,), float(epoch))}
    lines = [{"epoch": float(e)} for e in range(1, epoch + 1)]
    progress = Progress(epoch=epoch, best_epoch=best, best_ndcg=0.5, log=lines)
    save_checkpoint(run, tensors, tensors, progress)


def found(run: Path, which: str) -> tuple[int, float, float]:
    """Return epoch and weights of a checkpoint, all of which must belong together."""
    folder = checkpoint_folder(run, which)
    model, training = (
        load_tensors(folder / f"{n}.safetensors")["w"] for n in ("model", "training")
    )
    return load_progress(folder).epoch, float(model[0]), float(training[0])


def stop_at(patch: pytest.MonkeyPatch, wanted: int, after: bool) -> Callable[[], int]:
    """Stop at the wanted change of the disk, before it is made or after; return a counter."""
    made = 0

    def stopping(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal made
            made += 1
            if made == wanted and not after:
                raise StoppedError
            answer = original(*args, **options)
            if made == wanted and after:
                raise StoppedError
            return answer

        return call

    for owner, name in CALLS:
        patch.setattr(owner, name, stopping(getattr(owner, name)))
    return lambda: made


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody cuts the power here; what is written can be read without waiting for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("best", [1, 3])
def test_a_write_stopped_anywhere_leaves_the_old_or_the_new(
    tmp_path: Path, best: int, after: bool
) -> None:
    stops = 0
    while True:
        run = tmp_path / f"run-{stops}"
        save(run, 1, 1)
        save(run, 2, min(best, 2))
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, stops + 1, after)
            try:
                save(run, 3, best)
                break
            except StoppedError:
                stops += 1
        last = found(run, "last")
        assert last in ((2, 2.0, 2.0), (3, 3.0, 3.0))
        epoch = found(run, "best")[0]
        assert epoch == (best if last[0] == 3 else min(best, 2))
        sweep(run)
        save(run, 3, best)  # as a resumed training does
        assert found(run, "last") == (3, 3.0, 3.0)
        assert {path.name for path in (run / "checkpoints").iterdir()} == {
            f"epoch-{e:04d}" for e in (best, 3)
        }
        assert not [path for path in run.rglob("*") if path.suffix == ".tmp"]
    assert stops > 10


def test_a_log_has_a_column_for_whatever_an_epoch_has(tmp_path: Path) -> None:
    """A run that goes on on another machine measures more."""
    save_log(tmp_path, [{"epoch": 1.0, "loss": 2.0}, {"epoch": 2.0, "loss": 1.0, "gpu": 5.0}])
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines == ["epoch,loss,gpu", "1.0,2.0,", "2.0,1.0,5.0"]


def test_progress_without_validation_is_best_at_its_end() -> None:
    progress = Progress()
    progress.add({"validation.masked.ndcg@10": 0.2})
    progress.add({"validation.masked.ndcg@10": 0.1})
    assert (progress.epoch, progress.best_epoch, progress.best_ndcg) == (2, 1, 0.2)
    progress.add({"loss": 1.0})
    assert (progress.best_epoch, progress.best_ndcg) == (3, 0.2)


def test_a_reference_names_the_best_checkpoint_by_content(tmp_path: Path) -> None:
    save(tmp_path, 1, 1)
    before = run_ref(tmp_path)
    save(tmp_path, 2, 1)
    assert run_ref(tmp_path) == before
    save(tmp_path, 3, 3)
    after = run_ref(tmp_path)
    assert (after.epoch, after.checkpoint) == (3, "epoch-0003")
    assert after.sha256 != before.sha256


def test_a_checkpoint_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    """The library that writes it has an error of its own, also for a full disk."""
    with pytest.raises(RunError, match=r"model\.safetensors cannot be written \(.*go on with"):
        _save_tensors({"weight": torch.zeros(3)}, tmp_path / "no folder" / "model.safetensors")
