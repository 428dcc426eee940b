"""Labels that move, in virtual time, in a real repository of very small bundles."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support.loads import LOAD_S, House
from support.publisher import publish
from support.virtual_time import Clock, run_virtually

from mmsr.bundle.repository import Repository
from mmsr.engine.reload_watch import Position, Watch

POLL_S = 1.0
SOON_S = POLL_S + LOAD_S + 0.5


class Inline:
    """Reads files at once."""

    async def run(self, call: Callable[[], dict[str, Position]]) -> dict[str, Position]:
        return call()


class Street:
    """A repository with three bundles, and a house that follows its labels."""

    def __init__(self, root: Path, clock: Clock, labels: tuple[str, ...]) -> None:
        self.repository = Repository(root)
        self.bundles = [
            publish(self.repository, content, 0.1, None) for content in (b"a", b"b", b"c")
        ]
        self.repository.promote(self.bundles[0], "stable")
        self.house = House(clock, labels)
        self.watch = Watch(self.repository, self.house.reloader, Inline(), POLL_S)

    def answers(self) -> dict[str, int]:
        """Return which of the three answers under each label."""
        return {label: self.bundles.index(b) for label, b in self.house.answers().items()}

    def promote(self, number: int, label: str = "stable") -> None:
        self.repository.promote(self.bundles[number], label)


Main = Callable[[Street], Coroutine[Any, Any, None]]


def on_the_street(root: Path, main: Main, labels: tuple[str, ...] = ("stable",)) -> None:
    clock = Clock()

    async def inside() -> None:
        street = Street(root, clock, labels)
        places = await street.watch.begin()
        await street.house.reloader.begin(
            {label: place.bundle_id for label, place in places.items() if place is not None}
        )
        following = asyncio.create_task(street.watch.run())
        try:
            await main(street)
        finally:
            following.cancel()

    run_virtually(clock, inside())


def test_a_label_that_moves_is_followed(tmp_path: Path) -> None:
    async def main(street: Street) -> None:
        street.promote(1)
        await asyncio.sleep(POLL_S + LOAD_S / 2)
        assert street.answers() == {"stable": 0}
        await asyncio.sleep(LOAD_S)
        assert street.answers() == {"stable": 1}
        street.repository.rollback("stable")
        await asyncio.sleep(SOON_S)
        assert street.answers() == {"stable": 0}

    on_the_street(tmp_path / "r", main)


def test_of_two_quick_moves_only_the_last_is_followed(tmp_path: Path) -> None:
    async def main(street: Street) -> None:
        street.promote(1)
        street.promote(2)
        await asyncio.sleep(SOON_S)
        assert street.answers() == {"stable": 2}
        assert street.house.loader.opened == [street.bundles[0], street.bundles[2]]

    on_the_street(tmp_path / "r", main)


def test_a_bundle_that_was_rolled_back_while_it_was_loaded_never_answers(tmp_path: Path) -> None:
    async def main(street: Street) -> None:
        street.promote(1)
        await asyncio.sleep(POLL_S + LOAD_S / 2)
        street.repository.rollback("stable")
        await asyncio.sleep(2 * SOON_S)
        assert street.answers() == {"stable": 0}
        assert street.house.loader.freed == [street.bundles[1]]

    on_the_street(tmp_path / "r", main)


def test_a_move_while_another_bundle_is_loaded_is_followed_next(tmp_path: Path) -> None:
    async def main(street: Street) -> None:
        street.promote(1)
        await asyncio.sleep(POLL_S + LOAD_S / 2)
        street.promote(2)
        await asyncio.sleep(2 * SOON_S)
        assert street.answers() == {"stable": 2}
        assert sorted(street.house.loader.freed) == sorted(street.bundles[:2])

    on_the_street(tmp_path / "r", main)


def test_a_bundle_that_fails_is_tried_once_until_its_label_moves(tmp_path: Path) -> None:
    async def main(street: Street) -> None:
        tried: list[tuple[str, float, bool]] = []
        street.house.reloader.listeners.append(lambda *outcome: tried.append(outcome))
        street.house.loader.bad.add(street.bundles[1])
        street.promote(1)
        await asyncio.sleep(5 * SOON_S)
        assert len(tried) == 1
        assert street.answers() == {"stable": 0}
        assert street.house.reloader.failed["stable"].model_version == street.bundles[1]
        street.promote(2)
        await asyncio.sleep(SOON_S)
        assert street.answers() == {"stable": 2}
        assert street.house.reloader.failed == {}

    on_the_street(tmp_path / "r", main)


def test_what_an_operator_has_loaded_stays_until_the_label_moves(tmp_path: Path) -> None:
    async def main(street: Street) -> None:
        await street.house.reloader.load_now("stable", street.bundles[2])
        await asyncio.sleep(5 * SOON_S)
        assert street.answers() == {"stable": 2}
        street.promote(1)
        await asyncio.sleep(SOON_S)
        assert street.answers() == {"stable": 1}

    on_the_street(tmp_path / "r", main)


def test_a_label_that_comes_later_is_served_then(tmp_path: Path) -> None:
    async def main(street: Street) -> None:
        assert street.answers() == {"stable": 0}
        street.promote(1, "canary")
        street.promote(2, "other")  # nobody has asked to serve it
        await asyncio.sleep(SOON_S)
        assert street.answers() == {"stable": 0, "canary": 1}

    on_the_street(tmp_path / "r", main, ("stable", "canary"))


@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_labels_that_cannot_be_read_change_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    async def main(street: Street) -> None:
        path = street.repository.labels / "stable.json"
        text = path.read_text()
        if harm == "damaged":
            path.write_text("{")
        else:
            street.repository.versions.rename(tmp_path / "away")
        await asyncio.sleep(5 * SOON_S)
        assert street.answers() == {"stable": 0}
        path.write_text(text)
        if harm == "gone":
            (tmp_path / "away").rename(street.repository.versions)
        street.promote(1)
        await asyncio.sleep(SOON_S)
        assert street.answers() == {"stable": 1}

    on_the_street(tmp_path / "r", main)
    assert caplog.text.count("the labels cannot be read, what answers stays") == 1


def test_listeners_hear_of_every_position_before_it_is_followed(tmp_path: Path) -> None:
    async def main(street: Street) -> None:
        heard: list[tuple[str, int, str | None, dict[str, int]]] = []
        street.watch.listeners.append(
            lambda label, move: heard.append(
                (label, street.bundles.index(move.bundle_id), move.reason, street.answers())
            )
        )
        await street.watch.begin()
        street.repository.promote(street.bundles[1], "stable", "it is better")
        await asyncio.sleep(SOON_S)
        assert heard == [
            ("stable", 0, None, {"stable": 0}),
            ("stable", 1, "it is better", {"stable": 0}),
        ]
        assert street.answers() == {"stable": 1}

    on_the_street(tmp_path / "r", main)
