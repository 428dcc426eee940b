"""The five stages of a night: what each follows from, where it goes, how it is done."""

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmsr.bundle.files import read_json, sha256_file, sha256_json
from mmsr.training.checkpoint import (
    RunError,
    RunInfo,
    checkpoint_folder,
    load_progress,
    load_run_info,
    run_ref,
)
from mmsr.training.config import Recipe, recipe_to_dict
from mmsr.training.dataset import open_dataset
from mmsr.training.evaluation import evaluate_run, save_evaluation
from mmsr.training.features.extract import extract_features
from mmsr.training.final import EVALUATION, take_over_evaluation
from mmsr.training.fit import Hooks, Trainer
from mmsr.training.nightly_store import NightRecord, Work
from mmsr.training.prepare.output import refuse_overlap, staged_output
from mmsr.training.prepare.progress import Progress
from mmsr.training.prepare.report import REPORT
from mmsr.training.prepare.sources import find_sources
from mmsr.training.prepare.table import prepare_table, table_settings
from mmsr.training.run import describe_run, open_run, start_final, start_run
from mmsr.training.warm_start import source_of


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How a stage that goes on is shown, each for as long as its context lasts."""

    preparing: Callable[[], AbstractContextManager[Progress]]
    working: Callable[[], AbstractContextManager[Callable[[str], None]]]  # takes a few words
    bars: bool  # whether the encoders may draw their own


@dataclass(frozen=True, kw_only=True)
class Night:
    """What every stage needs to know."""

    recipe: Recipe
    source: Path
    image_root: Path | None = None  # where image paths start; None: at the source
    work: Work
    previous: NightRecord | None  # the newest night that was finished
    warm: bool
    shown: Shown


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage, ready to be done."""

    name: str
    folder: Path
    stamp: Any  # what it follows from, ready for JSON
    work: Callable[[], None]
    summary: Callable[[], str]  # of what lies in the folder, whenever it was made


def prepare_stage(night: Night) -> Stage:
    """From the shop's two files; also from how features are made, which lie with the data."""
    sources = find_sources(night.source, image_root=night.image_root)
    settings = table_settings(night.source, sources, night.recipe.prepare)
    stamp = {
        "items": sha256_file(sources.items),
        "interactions": sha256_file(sources.interactions),
        "settings": vars(settings),
        "features": night.recipe.features.shaping(),
        "mmsr": version("mmsr"),
    }
    folder = night.work.place("data", sha256_json(stamp))

    def work() -> None:
        refuse_overlap(folder, [sources.items, sources.interactions, sources.image_root])
        with staged_output(folder, force=True) as stage, night.shown.preparing() as progress:
            prepare_table(sources, stage, settings, progress)

    def summary() -> str:
        prepared = read_json(folder / REPORT, "the report of a preparation")["prepared"]
        sizes = [f"{prepared[name]:,} {name}" for name in ("users", "items", "interactions")]
        return ", ".join(sizes)

    return Stage(name="prepare", folder=folder, stamp=stamp, work=work, summary=summary)


def features_stage(night: Night, data: Path) -> Stage:
    """From the data and the image files, whose names, sizes and times are looked at.

    Which of them have changed in truth is found by content: only those are encoded.
    """
    dataset = open_dataset(data)
    folder = data / "features"
    stamp = {
        "data": dataset.info.content_hash,
        "settings": night.recipe.features.shaping(),
        "weights": _look(Path(night.recipe.features.image_weights or "")),
        "images": _images_key(dataset.image_root, dataset.item_table(["image"])["image"]),
    }

    notes: list[str] = []

    def work() -> None:
        if night.previous is not None:
            _share_cache(night.work.place("data", night.previous.data) / "features", folder)
        report = extract_features(dataset, night.recipe.features, show_progress=night.shown.bars)
        notes.append(f"{report.image.encoded + report.text.encoded:,} encoded")

    def summary() -> str:
        report = read_json(folder / "report.json", "the report of the features")
        found = [f"{name} of {report[name]['present']:,} items" for name in ("image", "text")]
        return ", ".join([*found, *notes])

    return Stage(name="features", folder=folder, stamp=stamp, work=work, summary=summary)


def fit_stage(night: Night, data: Path) -> Stage:
    """From the data, the features and the recipe; not from the night that it begins with."""
    info = describe_run(night.recipe, open_dataset(data))[1]
    stamp = {
        "data": info.data_hash,
        "features": info.content_hashes,
        "recipe": {k: v for k, v in recipe_to_dict(night.recipe).items() if k != "features"},
        "mmsr": version("mmsr"),
    }
    folder = night.work.place("runs", sha256_json(stamp))
    notes: list[str] = []

    def work() -> None:
        init_from = None
        if not (folder / "run.json").exists():
            init_from = _run_before(night, info, notes)
        _train(start_run(night.recipe, data, folder, True, init_from), folder, "fit", night)

    def summary() -> str:
        progress = load_progress(checkpoint_folder(folder, "last"))
        begun = load_run_info(folder).init_from
        found = f"best epoch {progress.best_epoch} of {progress.epoch}, "
        found += f"validation NDCG@10 {progress.best_ndcg:.4f}"
        found += f", begun with {Path(begun.run).name}" if begun is not None else ""
        return "; ".join([found, *notes])

    return Stage(name="fit", folder=folder, stamp=stamp, work=work, summary=summary)


def evaluate_stage(night: Night, run: Path) -> Stage:
    """From the best checkpoint of the run."""

    def work() -> None:
        with night.shown.working() as say:
            say("evaluate")
            save_evaluation(run, evaluate_run(open_run(run)))

    def summary() -> str:
        metrics = read_json(run / EVALUATION, "the metrics of a run")["metrics"]
        found = [f"{n} {metrics[f'test.masked.{n}']:.4f}" for n in ("ndcg@10", "recall@10")]
        popular = metrics["popularity.masked.ndcg@10"]
        return f"test {', '.join(found)} (history masked); popularity ndcg@10 {popular:.4f}"

    stamp = {"checkpoint": run_ref(run).sha256, "mmsr": version("mmsr")}
    return Stage(name="evaluate", folder=run, stamp=stamp, work=work, summary=summary)


def final_stage(night: Night, data: Path, run: Path) -> Stage:
    """From the run that was validated."""
    selected = run_ref(run)
    stamp = {"run": run.name, "checkpoint": selected.sha256}
    folder = night.work.place("finals", sha256_json(stamp))

    def work() -> None:
        init_from = None
        begun_warm = load_run_info(run).init_from is not None
        if begun_warm and night.previous is not None and not (folder / "run.json").exists():
            init_from = night.work.place("finals", night.previous.final)
        _train(start_final(run, data, folder, True, init_from), folder, "final", night)
        take_over_evaluation(folder)

    def summary() -> str:
        return f"epochs on all interactions: {selected.epoch}"

    return Stage(name="final", folder=folder, stamp=stamp, work=work, summary=summary)


def _run_before(night: Night, info: RunInfo, notes: list[str]) -> Path | None:
    """Return the validated run of the night before, if its weights are asked for and fit.

    Not its final run: that one has been trained on what this night validates and tests with. What
    the validated one held out is at most as new as what this one holds out.
    """
    if not night.warm or night.previous is None:
        return None
    run = night.work.place("runs", night.previous.run)
    try:
        source_of(run, info)
    except RunError as error:
        notes.append(f"begun anew, since {error}")
        return None
    return run


def _train(trainer: Trainer, folder: Path, stage: str, night: Night) -> None:
    limit = trainer.epoch_limit()
    with night.shown.working() as say:

        def on_step(done: int, steps: int, loss: float) -> None:
            epoch = trainer.progress.epoch + 1
            say(f"{stage}: epoch {epoch} of {limit}, {done / steps:.0%}, loss {loss:.4f}")

        trainer.run(folder, Hooks(step=on_step, epoch=lambda line: None))


def _images_key(root: Path, images: Any) -> str:
    """Return a key of the image files as they lie there now."""
    names = sorted({name for name in images.to_pylist() if name is not None})
    return sha256_json([[name, _look(root / name)] for name in names])


def _look(path: Path) -> list[int] | None:
    """Return a file's size in bytes and when it was changed; None if it is not there."""
    if not path.is_file():
        return None
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _share_cache(before: Path, now: Path) -> None:
    """Give the features of the night before to this one, as links to the same files.

    Files of the cache are written once and never changed.
    """
    if (before / "cache").is_dir() and not (now / "cache").exists():
        now.mkdir(exist_ok=True)
        shutil.copytree(before / "cache", now / "cache", copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # file systems without links
        shutil.copy2(source, target)
