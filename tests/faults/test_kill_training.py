"""`mmsr-train fit` killed by SIGKILL at any moment and resumed ends as if never stopped."""

import csv
import json
import random
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.fork_server import Forked, ForkServer
from support.small_features import write_features
from support.small_shop import shop_recipe, write_shop
from support.tally import SEED, Tally, rounds

from mmsr.training.checkpoint import checkpoint_folder

KILLS = rounds(8, 60)
EPOCHS = 6
TIMES = ("train_s", "validate_s", "sequences_per_s", "peak_rss_mib")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return recipe and data; every kind of state is in use: dropout, average, negatives."""
    folder = tmp_path_factory.mktemp("shop")
    fit = {"epochs": EPOCHS, "patience": EPOCHS, "average_decay": 0.9, "schedule": "cosine"}
    recipe = shop_recipe(folder, **fit)
    text = recipe.read_text().replace("[loss]", '[loss]\nsoftmax = "sampled"\nnegatives = 8')
    recipe.write_text(text)
    return recipe, write_features(write_shop(folder / "data"), "image", "text")


def contents(run: Path) -> dict[str, torch.Tensor]:
    """Return every number of the last checkpoint, and of the best."""
    found: dict[str, torch.Tensor] = {}
    for which in ("last", "best"):
        for path in sorted(checkpoint_folder(run, which).glob("*.safetensors")):
            found |= {f"{which}/{path.stem}/{k}": v for k, v in load_file(path).items()}
    return found


def log(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open() as file:
        lines = list(csv.DictReader(file))
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def assert_as_if_never_stopped(run: Path, whole: Path) -> None:
    one, other = contents(run), contents(whole)
    assert one.keys() == other.keys()
    for name, tensor in other.items():
        assert torch.equal(one[name], tensor), name
    assert json.loads((run / "checkpoint.json").read_text()) == json.loads(
        (whole / "checkpoint.json").read_text()
    )
    assert log(run) == log(whole)
    assert {p.name for p in run.rglob("*")} == {p.name for p in whole.rglob("*")}


def times(process: Forked, run: Path) -> tuple[float, float]:
    """Return after how many seconds an undisturbed training has begun, and has ended."""
    began_s = started_s = time.monotonic()
    while not process.ended_within(0.01):
        if not (run / "run.json").exists():
            started_s = time.monotonic()
    assert process.code() == 0, process.output.read_text()
    return started_s - began_s, time.monotonic() - began_s


@pytest.mark.slow
def test_a_training_killed_at_any_moment_ends_as_if_never_stopped(
    server: ForkServer, inputs: tuple[Path, Path], tmp_path: Path, tally: Tally
) -> None:
    """kill -9 of `mmsr-train fit`, and of what resumes it.

    A run is killed again and again until it ends; then the next begins.
    """
    recipe, data = inputs
    whole = tmp_path / "whole"
    fit = ("fit", recipe, "--data", data, "--resume", "--out")
    started_s, whole_s = times(server.start(*fit, whole), whole)
    # A process is killed between its first instant and an epoch and a half after its start.
    latest_s = started_s + 1.5 * (whole_s - started_s) / EPOCHS
    moments = random.Random(SEED)
    kills = finished = 0
    while kills < KILLS or finished == 0:
        run = tmp_path / f"run-{finished}"
        process = server.start(*fit, run)
        if kills < KILLS and not process.ended_within(moments.uniform(0, latest_s)):
            process.kill()
            kills += 1
            tally.kills += 1
            tally.survived("resumes at its last epoch and ends as if never stopped, bit for bit")
            continue
        assert process.code() == 0, process.output.read_text()
        assert_as_if_never_stopped(run, whole)
        finished += 1
    tally.check(at_least=KILLS)
