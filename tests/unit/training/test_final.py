"""The final run: everything is trained on, for as long as the validated run was best."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.small_features import write_features
from support.small_shop import shop_recipe, write_shop

from mmsr.bundle.errors import MmsrError
from mmsr.training.checkpoint import checkpoint_folder, load_progress, load_run_info
from mmsr.training.config import Recipe, load_recipe
from mmsr.training.dataset import open_dataset
from mmsr.training.evaluation import evaluate_run, save_evaluation
from mmsr.training.final import take_over_evaluation
from mmsr.training.fit import Hooks, Trainer
from mmsr.training.run import open_run, start_final, start_run
from mmsr.training.whole_split import nothing_held_out

QUIET = Hooks(step=lambda done, steps, loss: None, epoch=lambda line: None)


class StoppedError(Exception):
    """Stands for kill -9."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("final")


@pytest.fixture(scope="module")
def shop(root: Path) -> Path:
    return write_features(write_shop(root / "data"), "image", "text")


@pytest.fixture(scope="module")
def recipe(root: Path) -> Recipe:
    return load_recipe(shop_recipe(root, epochs=4, schedule="linear"))


@pytest.fixture(scope="module")
def run(recipe: Recipe, shop: Path, root: Path) -> Path:
    return selected(recipe, shop, root / "run")


@pytest.fixture(scope="module")
def finished(run: Path, root: Path) -> Trainer:
    return final(run, root / "finished")


def selected(recipe: Recipe, shop: Path, run: Path, best: int = 2) -> Path:
    """Train a run whose validation is best after `best` epochs."""
    trainer = start_run(recipe, shop, run, resume=False)
    add = trainer.progress.add

    def judged(line: dict[str, float]) -> None:
        add(line | {"validation.masked.ndcg@10": 1.0 if line["epoch"] == best else 0.1})

    trainer.progress.add = judged  # type: ignore[method-assign]
    trainer.run(run, QUIET)
    return run


def final(run: Path, out: Path) -> Trainer:
    trainer = start_final(run, None, out, resume=False)
    trainer.run(out, QUIET)
    return trainer


def test_every_interaction_is_trained_on_and_nothing_validated(
    finished: Trainer, shop: Path
) -> None:
    windows, dataset = finished.windows, open_dataset(shop)
    lengths = np.diff(dataset.offsets)
    assert int((windows.end_K - windows.start_K - 1).sum()) == int((lengths - 1).sum())
    assert all("validation.masked.ndcg@10" not in line for line in finished.progress.log)


def test_it_takes_the_epochs_that_were_best_at_the_same_learning_rates(
    finished: Trainer, recipe: Recipe, root: Path
) -> None:
    """A schedule still ends with the recipe's epochs, of which only the first are done."""
    assert finished.progress.epoch == finished.progress.best_epoch == 2
    rate = finished.optimizer.param_groups[0]["lr"]
    assert rate / recipe.fit.learning_rate == pytest.approx(0.5, abs=0.06)
    assert checkpoint_folder(root / "finished", "best").name == "epoch-0002"
    info = load_run_info(root / "finished")
    assert info.recipe == recipe
    assert info.selected_by is not None
    assert (info.selected_by.checkpoint, info.selected_by.epoch) == ("epoch-0002", 2)


def test_it_begins_with_the_same_weights_as_the_selected_run(
    run: Path, recipe: Recipe, shop: Path, tmp_path: Path
) -> None:
    recipe = replace(recipe, fit=replace(recipe.fit, epochs=1))
    warm = start_run(recipe, shop, tmp_path / "warm", False, run)
    first = {name: p.clone() for name, p in warm.model.state_dict().items()}
    warm.run(tmp_path / "warm", QUIET)
    trainer = start_final(tmp_path / "warm", None, tmp_path / "final", resume=False)
    now = trainer.model.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in first.items())


def test_a_stopped_final_run_ends_as_if_never_stopped(
    run: Path, finished: Trainer, root: Path, tmp_path: Path
) -> None:

    def stop(line: dict[str, float]) -> None:
        raise StoppedError

    stopped = start_final(run, None, tmp_path / "stopped", resume=False)
    with pytest.raises(StoppedError):
        stopped.run(tmp_path / "stopped", Hooks(step=QUIET.step, epoch=stop))
    assert load_progress(checkpoint_folder(tmp_path / "stopped", "last")).epoch == 1
    start_final(run, None, tmp_path / "stopped", resume=True).run(tmp_path / "stopped", QUIET)
    one, other = (
        load_file(checkpoint_folder(folder, "last") / "model.safetensors")
        for folder in (root / "finished", tmp_path / "stopped")
    )
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())


def test_the_metrics_are_the_selected_runs_and_say_so(
    run: Path, finished: Trainer, root: Path
) -> None:
    assert not take_over_evaluation(root / "finished")
    evaluation = evaluate_run(open_run(run))
    save_evaluation(run, evaluation | {"checkpoint": "epoch-0001"})  # another epoch
    assert not take_over_evaluation(root / "finished")
    assert not (root / "finished/evaluation.json").exists()
    save_evaluation(run, evaluation)
    assert take_over_evaluation(root / "finished")
    ours = json.loads((root / "finished/evaluation.json").read_text())
    assert ours["metrics"] == evaluation["metrics"]
    assert ours["checkpoint"] == "epoch-0002"
    assert ours["from"]["run"] == str(run.resolve())
    assert ours["from"]["checkpoint"] == evaluation["checkpoint"]


def test_a_final_run_cannot_be_evaluated(finished: Trainer, root: Path) -> None:
    with pytest.raises(MmsrError, match=r"trained on all interactions: .*evaluate the run that"):
        evaluate_run(open_run(root / "finished"))


def test_its_probes_are_the_newest_histories(finished: Trainer, shop: Path) -> None:
    split, dataset = finished.split, open_dataset(shop)
    assert len(split.evaluated()) == int((np.diff(dataset.offsets) >= 2).sum())
    for user in split.evaluated().tolist():
        items = dataset.items_T[dataset.offsets[user] : dataset.offsets[user + 1]]
        assert split.history(user, "test").tolist() == items[:-1].tolist()
        assert split.target(user, "test") == items[-1]


def test_a_user_with_one_interaction_is_no_probe() -> None:
    from support.sequences import dataset_of

    split = nothing_held_out(dataset_of([[1], [2, 3], [4]]))
    assert split.evaluated().tolist() == [1]
    assert split.train_counts(4).tolist() == [0, 1, 1, 1, 1]
    assert len(split.evaluated("validation")) == 0


def test_wrong_beginnings_are_refused(
    run: Path, finished: Trainer, recipe: Recipe, root: Path, shop: Path
) -> None:
    with pytest.raises(MmsrError, match=f"is a final run itself; name .*{run}"):
        start_final(root / "finished", None, root / "twice", resume=False)
    with pytest.raises(MmsrError, match=r"was begun as a run with a validation, not as the final"):
        start_final(run, None, run, resume=True)
    with pytest.raises(MmsrError, match=r"was begun as the final run of .*, not as a run with a"):
        start_run(recipe, shop, root / "finished", resume=True)
    with pytest.raises(MmsrError, match="holds a run already"):
        start_final(run, None, root / "finished", resume=False)
