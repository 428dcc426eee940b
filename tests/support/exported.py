"""A small trained run with real (tiny) encoders, and its bundle as the export stages it."""

from dataclasses import replace
from pathlib import Path

import torch
from support.small_bert import small_text_encoder
from support.small_shop import shop_recipe, write_shop

from mmsr.bundle.repository import Repository
from mmsr.export.build import Stages, write_bundle
from mmsr.training.config import Recipe, load_recipe
from mmsr.training.dataset import open_dataset
from mmsr.training.features.config import FeaturesConfig
from mmsr.training.features.extract import extract_features
from mmsr.training.fit import Hooks
from mmsr.training.run import TrainedRun, open_run, start_run

EPOCHS = 12  # enough to beat popularity on the ring of small_shop


def with_features(data: Path, text_encoder: Path) -> Path:
    """Encode the small shop's pictures and texts."""
    config = FeaturesConfig(
        image_encoder="squeezenet1_1",
        image_size=32,
        random_weights=True,
        text_encoder=str(text_encoder),
        max_tokens=16,
        workers=1,
    )
    extract_features(open_dataset(data), config)
    return data


def recipe_in(folder: Path) -> Recipe:
    """Return the recipe of the small shop, with what makes it learn in seconds."""
    recipe = load_recipe(shop_recipe(folder, epochs=EPOCHS, patience=EPOCHS))
    return replace(recipe, model=replace(recipe.model, blocks=1))


def train(recipe: Recipe, data: Path, out: Path) -> Path:
    """Train in this process."""
    quiet = Hooks(step=lambda *_: None, epoch=lambda _: None)
    start_run(recipe, data, out, resume=False).run(out, quiet)
    return out


def small_run(root: Path) -> TrainedRun:
    """Make data, features and a trained run below `root`; return the run as export opens it."""
    data = with_features(write_shop(root / "data"), small_text_encoder(root / "small-bert"))
    run = train(recipe_in(root), data, root / "run")
    return open_run(run, device=torch.device("cpu"))


def stage(run: TrainedRun, folder: Path, repository: Path) -> Path:
    """Write the run's bundle, unproven, into `folder`."""
    folder.mkdir(parents=True)
    repo = Repository(repository)
    repo.create()
    write_bundle(run, folder, "real", repo, Stages(tell=lambda _: None))
    return folder
