"""What a rollback does to the label in the repository, and what it leaves alone."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from support.loads import House, deployment
from support.publisher import publish
from support.virtual_time import Clock

from mmsr.bundle.errors import BundleError
from mmsr.bundle.repository import LabelMovedError, Move, Repository
from mmsr.engine.compute import ComputeThread
from mmsr.engine.serving import Serving
from mmsr.engine.split import CanaryConfig
from mmsr.engine.trial import Trial
from mmsr.engine.withdrawal import Withdrawal, point_back

REASON = "it was rolled back: it answers too late"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Return one whose labels name the first and the second of three bundles."""
    repository = Repository(tmp_path / "repository")
    good, bad, _ = (publish(repository, content, 0.1, None) for content in (b"a", b"b", b"c"))
    repository.promote(good, "stable")
    repository.promote(bad, "canary")
    return repository


def roll_back(repository: Repository, before: Callable[[], None] = lambda: None) -> Serving:
    """Breach a limit under a server without a watch; `before` happens in the repository first."""
    good, bad, _ = repository.ids()

    async def main() -> Serving:
        house = House(Clock(), ("stable", "canary"))
        config = CanaryConfig(label="canary")
        house.serving.split = config.split
        house.serving.use("stable", deployment(good))
        house.serving.use("canary", deployment(bad))
        trial = Trial(config, house.serving, house.clock)
        files = ComputeThread(asyncio.get_running_loop())
        files.start()
        withdrawal = Withdrawal(trial, repository, house.reloader, files)
        before()
        trial.on_breach(bad, REASON)
        await asyncio.gather(*withdrawal._tasks)
        files.close()
        return house.serving

    return asyncio.run(main())


def test_the_label_is_moved_to_what_the_default_one_names_and_followed(
    repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    good, bad, _ = repository.ids()
    serving = roll_back(repository)
    before, now = repository.history("canary")
    assert (before.bundle_id, now.bundle_id, now.reason) == (bad, good, REASON)
    assert serving.deployments["canary"] is serving.deployments["stable"]
    assert serving.is_withdrawn(good)  # whatever the default label names later
    assert f"label 'canary' names {good}, as 'stable' does" in caplog.messages


def test_a_label_that_somebody_has_moved_since_stays(
    repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    _, bad, other = repository.ids()
    roll_back(repository, lambda: repository.promote(other, "canary"))
    assert [move.bundle_id for move in repository.history("canary")] == [bad, other]
    assert f"label 'canary' has been moved away from {bad} already; it stays" in caplog.messages


def test_where_the_default_label_names_it_too_nothing_is_moved(
    repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    _, bad, _ = repository.ids()
    roll_back(repository, lambda: repository.promote(bad, "stable"))
    assert [move.reason for move in repository.history("canary")] == [None]
    assert "label 'stable' names it too, so there is nothing to go back to" in caplog.text
    assert "only this server has stopped to try it" in caplog.text


def test_two_servers_that_find_the_same_move_the_label_once(repository: Repository) -> None:
    good, bad, next_one = repository.ids()
    move = Move(label="canary", named=bad)
    assert point_back(repository, "stable", move, REASON) == good
    assert point_back(repository, "stable", move, "the other server's") == good
    assert [move.reason for move in repository.history("canary")] == [None, REASON]
    with pytest.raises(BundleError, match="no label 'nightly'"):
        point_back(repository, "nightly", move, REASON)
    repository.promote(next_one, "canary")
    with pytest.raises(LabelMovedError):
        point_back(repository, "stable", move, REASON)
    assert len(repository.history("canary")) == 3
