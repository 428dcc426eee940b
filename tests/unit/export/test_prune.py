"""What `mmsr-repo prune` removes, what it never does, and what it says it freed."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.tiny_bundle import Sizes, make_twin, manifest_of, publish, seal, write_files

from mmsr.bundle.errors import BundleError, MmsrError
from mmsr.bundle.repository import Repository
from mmsr.engine.model import RowRequest, open_model
from mmsr.export.prune import prune

SMALL = Sizes(items=30, spare=4, width=4, extra_width=2, max_length=5, probes=8)


def add(repository: Repository, seed: int, label: str | None = None) -> str:
    """Publish a bundle of other tables."""
    with repository.stage() as folder:
        write_files(folder, make_twin(SMALL, seed), SMALL)
        seal(folder, manifest_of(SMALL))
        return repository.publish(folder, label)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository of five bundles without a label, oldest first."""
    repository = Repository(tmp_path)
    for seed in range(5):
        add(repository, seed)
    return repository


def test_the_newest_stay_and_the_others_go(repository: Repository) -> None:
    ids = repository.ids()
    report = prune(repository, 2, dry_run=False)
    assert report.removed == tuple(ids[:3])
    assert repository.ids() == ids[3:]
    assert list(report.kept) == ids[:2:-1]
    assert not list(repository.root.glob(".trash-*"))


def test_a_dry_run_says_the_same_and_does_nothing(repository: Repository) -> None:
    ids = repository.ids()
    foretold = prune(repository, 2, dry_run=True)
    assert repository.ids() == ids
    assert prune(repository, 2, dry_run=False) == foretold


def test_what_a_label_names_or_named_last_stays_so_that_rollback_works(
    repository: Repository,
) -> None:
    first, second, third, fourth, fifth = repository.ids()
    for bundle_id in (third, first, second):
        repository.promote(bundle_id, "stable")
    repository.promote(fourth, "canary")
    report = prune(repository, 1, dry_run=False)
    assert report.removed == (third,)
    assert report.kept == {
        fifth: "among the 1 newest",
        fourth: "canary names it",
        second: "stable names it",
        first: "stable named it last",
    }
    assert repository.rollback("stable") == first
    with pytest.raises(BundleError, match=f"named {third} before, which was pruned since"):
        repository.rollback("stable")
    assert repository.resolve("stable").name == first


def test_a_damaged_label_stops_it_before_anything_is_removed(repository: Repository) -> None:
    ids = repository.ids()
    repository.promote(ids[0], "stable")
    (repository.labels / "stable.json").write_text("{")
    with pytest.raises(MmsrError, match=r"stable\.json"):
        prune(repository, 1, dry_run=False)
    assert repository.ids() == ids


def test_a_bundle_that_somebody_holds_stays_until_it_is_let_go(repository: Repository) -> None:
    first = repository.ids()[0]
    with repository.hold(first):
        report = prune(repository, 1, dry_run=False)
        assert report.kept[first] == "in use"
        assert first in repository.ids()
    assert prune(repository, 1, dry_run=False).removed == (first,)


def test_an_open_model_answers_on_though_its_files_are_gone(repository: Repository) -> None:
    first = repository.ids()[0]
    model = open_model(repository.path(first), threads=1)
    request = RowRequest([3, 5], [3], 5)
    before = model.recommend([request])
    assert first in prune(repository, 1, dry_run=False).removed
    assert not (repository.versions / first).exists()
    assert model.recommend([request]) == before
    model.close()


def test_a_staged_bundle_is_not_touched_and_can_be_published(repository: Repository) -> None:
    with repository.stage() as folder:
        write_files(folder, make_twin(SMALL, 9), SMALL)
        seal(folder, manifest_of(SMALL))
        prune(repository, 1, dry_run=False)
        bundle_id = repository.publish(folder, "stable")
    assert repository.resolve("stable").name == bundle_id


def test_files_that_a_kept_bundle_shares_free_nothing(repository: Repository) -> None:
    shared = np.zeros(1000, np.float32).tobytes()
    ids = repository.ids()
    origin = repository.path(ids[0]) / "tables" / "extra.bin"
    origin.write_bytes(shared)
    os.link(origin, repository.path(ids[1]) / "tables" / "extra.bin")
    of_two = sum(
        path.stat().st_size
        for bundle_id in ids[:2]
        for path in repository.path(bundle_id).rglob("*")
        if path.is_file()
    )
    assert prune(repository, 3, dry_run=True).freed_bytes == of_two - len(shared)
    os.link(origin, repository.path(ids[4]) / "tables" / "extra.bin")
    assert prune(repository, 3, dry_run=True).freed_bytes == of_two - 2 * len(shared)


def test_engines_of_a_bundle_go_with_it(repository: Repository) -> None:
    first = repository.ids()[0]
    plan = repository.engines / first / "rtx-1-sm90" / "sequence.plan"
    plan.parent.mkdir(parents=True)
    plan.write_bytes(b"plan")
    without = prune(repository, 4, dry_run=True).freed_bytes
    assert prune(repository, 4, dry_run=False).freed_bytes == without
    assert not plan.parent.parent.exists()


def test_what_a_killed_prune_left_behind_is_swept(repository: Repository) -> None:
    first = repository.ids()[0]
    with repository.locked():
        trash = repository.discard(first)
    assert trash is not None
    assert first not in repository.ids()
    add(repository, 7)
    assert not trash.exists()


def test_keeping_none_is_refused(tmp_path: Path) -> None:
    shop = publish(tmp_path)
    with pytest.raises(MmsrError, match="--keep 0: expected at least 1"):
        prune(Repository(shop.root), 0, dry_run=False)
    shutil.rmtree(shop.root / "leases")  # a repository of an earlier release has none
    assert prune(Repository(shop.root), 1, dry_run=False).removed == ()
