"""`mmsr-train features` under kill -9, its own and that of the processes that decode for it."""

import json
import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support.fork_server import Forked, ForkServer
from support.kills import children, descendants, is_there, spread, survivors
from support.small_bert import small_text_encoder
from support.small_shop import shop_recipe, write_shop
from support.tally import SEED, Tally, rounds

from mmsr.training.dataset import open_dataset
from mmsr.training.features.store import open_features

KILLS = rounds(2, 25)
WORKER_KILLS = rounds(1, 8)
LATEST_S = 0.6  # of a decoding process's life: it starts in about that
ITEMS = 300  # two shards of pictures in the cache
FILES = ("image.npy", "image_present.npy", "text.npy", "text_present.npy", "features.json")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return recipe and data."""
    folder = tmp_path_factory.mktemp("shop")
    recipe = shop_recipe(folder)  # its last section is [features]
    encoder = small_text_encoder(folder / "small-bert")
    recipe.write_text(recipe.read_text() + f'text_encoder = "{encoder}"\n')
    return recipe, write_shop(folder / "data", items=ITEMS)


def start(server: ForkServer, recipe: Path, data: Path) -> Forked:
    return server.start("features", data, "--config", recipe)


def whole_run(server: ForkServer, recipe: Path, data: Path, target: Path) -> tuple[Path, float]:
    """Run it undisturbed on a copy; return the features and how long it took."""
    shutil.copytree(data, target)
    began_s = time.monotonic()
    process = start(server, recipe, target)
    assert process.code() == 0, process.output.read_text()
    return target / "features", time.monotonic() - began_s


def kept_something(process: Forked, data: Path) -> bool:
    """Wait until something is in the cache; False if the process has ended by then."""
    while not list((data / "features").glob("cache/**/shard-*.npy")):
        if process.ended_within(0.005):
            return False
    return True


def assert_same(features: Path, whole: Path) -> None:
    """Every matrix is that of a run that nothing disturbed, and no half-written file is left."""
    for name in FILES:
        assert (features / name).read_bytes() == (whole / name).read_bytes(), name
    assert not list(features.rglob(".*.tmp"))


@pytest.mark.slow
def test_features_killed_at_any_moment_end_as_if_never_stopped(
    server: ForkServer, inputs: tuple[Path, Path], tmp_path: Path, tally: Tally
) -> None:
    """kill -9 of `mmsr-train features`, and of what goes on after it."""
    recipe, data = inputs
    whole, whole_s = whole_run(server, recipe, data, tmp_path / "whole")
    moments = spread(KILLS, random.Random(SEED))
    finished = cached = 0
    target = tmp_path / "data-0"
    shutil.copytree(data, target)
    while tally.kills < KILLS or finished == 0:
        process = start(server, recipe, target)
        if tally.kills == 0:
            waited = kept_something(process, target)
        else:
            waited = tally.kills < KILLS and not process.ended_within(next(moments) * whole_s)
        if waited:
            workers = descendants(process.pid)
            process.kill()
            tally.kills += 1
            if left := survivors(workers):
                tally.lose(f"{len(left)} processes that decode outlived it")
            elif (target / "features" / "features.json").exists():
                open_features(open_dataset(target))  # it says that they are whole: they are
                tally.survived("the features were whole already")
            else:
                tally.survived("nothing says that they are whole; what is cached is not made again")
            continue
        assert process.code() == 0, process.output.read_text()
        assert_same(target / "features", whole)
        said = json.loads((target / "features" / "report.json").read_text())
        cached += said["image"]["cached"] + said["text"]["cached"]
        finished += 1
        target = tmp_path / f"data-{finished}"
        shutil.copytree(data, target)
    assert cached > 0, "what was kept was made again"
    tally.check(at_least=KILLS)


def decoding(pid: int) -> list[int]:
    """Return the processes that decode for this one; another one tracks resources."""
    found = []
    for child in children(pid):
        with suppress(OSError):  # it has ended meanwhile
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


@pytest.mark.slow
def test_a_decoding_process_that_is_killed_costs_no_picture(
    server: ForkServer, inputs: tuple[Path, Path], tmp_path: Path, tally: Tally
) -> None:
    """kill -9 of a process that decodes for `mmsr-train features`."""
    recipe, data = inputs
    whole, _ = whole_run(server, recipe, data, tmp_path / "whole")
    choose = random.Random(SEED)
    for attempt in range(8 * WORKER_KILLS):
        if tally.kills == WORKER_KILLS:
            break
        target = tmp_path / f"data-{attempt}"
        shutil.copytree(data, target)
        process = start(server, recipe, target)
        while not (workers := decoding(process.pid)) and not process.ended_within(0.005):
            continue
        if workers and process.ended_within(choose.uniform(0, LATEST_S)):
            workers = []
        workers = [pid for pid in workers if is_there(pid)]
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
            tally.kills += 1
        assert process.code() == 0, process.output.read_text()
        assert_same(target / "features", whole)
        if workers:
            tally.survived("what it was at is decoded by another; the features are the same")
        shutil.rmtree(target)
    tally.check(at_least=WORKER_KILLS)
