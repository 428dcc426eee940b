"""Whole exports under kill -9: what is published is whole, and the next one succeeds."""

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.exporting import Exporting, answer_of, exporting, retrained
from support.kills import spread
from support.tally import SEED, Tally, rounds
from support.whole import assert_triton_whole, assert_whole, folders, remains

from mmsr.bundle.files import read_json
from mmsr.bundle.repository import Repository
from mmsr.engine.model import open_model
from mmsr.engine.probe import prove
from mmsr.export.prune import prune

KILLS = rounds(10, 60)
NOISE = 1e-6  # other weights, and so another bundle, as good as before
KEPT = 3


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporting]:
    with exporting(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


@pytest.mark.slow
def test_an_export_killed_at_any_moment_leaves_everything_valid(
    shop: Exporting, tmp_path: Path, tally: Tally
) -> None:
    """kill -9 of `mmsr-export --triton`."""
    repository, target = shop.copy(tmp_path / "repository"), tmp_path / "triton"
    flags = ("--triton", target, "--accept-drop")
    began_s = time.monotonic()
    assert shop.start(shop.run, repository, *flags).code() == 0
    whole_s = time.monotonic() - began_s
    moments = spread(KILLS, random.Random(SEED))
    kills = left_behind = attempts = 0
    while kills < KILLS:
        run = retrained(shop.run, tmp_path / f"run-{attempts}", seed=100 + attempts, scale=NOISE)
        process = shop.start(run, repository, *flags)
        attempts += 1
        if not process.ended_within(next(moments) * whole_s):
            process.kill()
            kills += 1
            tally.kills += 1
            tally.survived("bundles, labels and models for Triton are whole; the next one sweeps")
        else:
            assert process.code() == 0, process.output.read_text()
        left_behind += bool(remains(repository))
        assert_whole(repository)
        assert_triton_whole(target)
        prune(repository, KEPT, dry_run=False)
        assert remains(repository) == []
        shutil.rmtree(run)
        assert attempts < 3 * KILLS
    assert left_behind >= KILLS // 3, "the kills came before or after the work"
    assert_as_good_as_ever(shop, repository, target)
    tally.check(at_least=KILLS)


def assert_as_good_as_ever(shop: Exporting, repository: Repository, target: Path) -> None:
    """What is live can be served, and one export more succeeds and leaves nothing behind."""
    model = open_model(repository.resolve("stable"), threads=1)
    prove(model).check()
    model.close()
    last = shop.start(shop.run, repository, "--triton", target, "--accept-drop", "--json")
    bundle_id = answer_of(last)["bundle_id"]
    assert repository.resolve("stable").name == bundle_id
    assert_whole(repository)
    assert_triton_whole(target)
    assert remains(repository) == []
    assert not list(target.parent.glob(".triton*"))
    newest = max(int(name) for name in folders(target / "sequence") if name.isdigit())
    made_from = read_json(target / "sequence" / str(newest) / "made_from.json", "")
    assert made_from["bundle_id"] == bundle_id
