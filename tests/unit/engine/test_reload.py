"""A newer bundle takes the place of the one that answers, in virtual time, without bundles."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from support.loads import LOAD_S, House
from support.virtual_time import Clock, run_virtually

from mmsr.bundle.errors import BundleError
from mmsr.engine.deployment import Deployment
from mmsr.engine.errors import LoadFailed, LoadUnderWay, UnknownLabel

Main = Callable[[House], Coroutine[Any, Any, None]]


def in_house(main: Main, labels: tuple[str, ...] = ("stable",)) -> None:
    clock = Clock()

    async def inside() -> None:
        house = House(clock, labels)
        await house.reloader.begin(dict.fromkeys(labels, "old"))
        await main(house)

    run_virtually(clock, inside())


def test_the_newer_bundle_answers_when_it_is_ready_and_the_old_one_is_freed() -> None:
    async def main(house: House) -> None:
        loading = asyncio.create_task(house.reloader.load("stable", "new"))
        await asyncio.sleep(LOAD_S / 2)
        assert house.answers() == {"stable": "old"}
        await loading
        assert house.answers() == {"stable": "new"}
        await asyncio.sleep(0.1)
        assert house.loader.freed == ["old"]
        assert house.reloader.retiring == ()

    in_house(main)


def test_the_old_one_stays_until_the_calls_that_could_have_met_it_have_ended() -> None:
    async def main(house: House) -> None:
        old = house.serving.deployment()
        call = house.flights.begin()
        await house.reloader.load("stable", "new")
        later = house.flights.begin()
        await asyncio.sleep(1)
        batcher: Any = old.batcher
        assert not batcher.drained
        assert house.reloader.retiring == (old,)
        house.flights.end(call)
        await asyncio.sleep(1)
        assert batcher.drained
        assert house.loader.freed == ["old"]
        house.flights.end(later)

    in_house(main)


def test_a_bundle_that_fails_leaves_the_old_one_and_is_told() -> None:
    async def main(house: House) -> None:
        house.loader.bad.add("new")
        with pytest.raises(LoadFailed, match="bundle new is not served: new is damaged"):
            await house.reloader.load("stable", "new")
        assert house.answers() == {"stable": "old"}
        failed = house.reloader.failed["stable"]
        assert (failed.model_version, failed.reason) == ("new", "new is damaged")
        assert house.loader.freed == []
        await house.reloader.load("stable", "newer")
        assert house.reloader.failed == {}

    in_house(main)


def test_what_nobody_expected_of_a_bundle_does_not_end_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(house: House) -> None:
        async def surprise(bundle_id: str, before: Deployment | None) -> Deployment:
            raise ZeroDivisionError("by zero")

        house.loader.open = surprise  # type: ignore[method-assign]
        with pytest.raises(LoadFailed, match="ZeroDivisionError: by zero"):
            await house.reloader.load("stable", "new")
        assert house.answers() == {"stable": "old"}

    in_house(main)
    assert "Traceback" in caplog.text
    assert "stable names new, which is not served: ZeroDivisionError: by zero; old goes on" in (
        caplog.text
    )


def test_a_bundle_that_nobody_wants_any_more_never_answers() -> None:
    async def main(house: House) -> None:
        answers = iter([True, False])

        async def wanted() -> bool:
            return next(answers)

        await house.reloader.load("stable", "new", wanted)
        assert house.answers() == {"stable": "old"}
        assert house.loader.freed == ["new"]
        assert house.reloader.failed == {}

    in_house(main)


def test_a_bundle_that_nobody_wants_when_its_turn_comes_is_not_loaded() -> None:
    async def main(house: House) -> None:
        async def unwanted() -> bool:
            return False

        await house.reloader.load("stable", "new", unwanted)
        assert house.answers() == {"stable": "old"}
        assert house.loader.opened == ["old"]

    in_house(main)


def test_loading_what_answers_already_loads_nothing() -> None:
    async def main(house: House) -> None:
        await house.reloader.load("stable", "old")
        assert house.loader.opened == ["old"]
        assert house.loader.freed == []

    in_house(main)


def test_labels_that_name_the_same_bundle_share_one_deployment() -> None:
    async def main(house: House) -> None:
        assert house.loader.opened == ["old"]
        await house.reloader.load("canary", "new")
        assert house.answers() == {"stable": "old", "canary": "new"}
        assert house.loader.freed == []  # stable still uses it
        await house.reloader.load("stable", "new")
        assert house.loader.opened == ["old", "new"]
        assert len(set(house.serving.deployments.values())) == 1
        await asyncio.sleep(1)
        assert house.loader.freed == ["old"]

    in_house(main, ("stable", "canary"))


def test_a_label_that_is_not_served_here_is_refused() -> None:
    async def main(house: House) -> None:
        with pytest.raises(UnknownLabel, match="'canary' is not served here; served are stable"):
            await house.reloader.load("canary", "new")

    in_house(main)


def test_an_operator_is_told_of_another_load_and_the_watch_waits_for_it() -> None:
    async def main(house: House) -> None:
        first = asyncio.create_task(house.reloader.load("stable", "new"))
        await asyncio.sleep(1)
        with pytest.raises(LoadUnderWay):
            await house.reloader.load_now("stable", "other")
        second = asyncio.create_task(house.reloader.load("stable", "newest"))
        await asyncio.gather(first, second)
        assert house.answers() == {"stable": "newest"}
        await asyncio.sleep(1)
        assert sorted(house.loader.freed) == ["new", "old"]

    in_house(main)


class Diary:
    """A carrier that notes when it is called, and by whom requests are answered then."""

    def __init__(self, house: House, fails: bool = False) -> None:
        self._house = house
        self._fails = fails
        self.pages: list[tuple[str, str, str]] = []

    def _note(self, what: str, about: Deployment) -> None:
        now = self._house.answers()["stable"]
        self.pages.append((what, about.model.version, now))

    async def carry(self, new: Deployment) -> None:
        await asyncio.sleep(1)
        self._note("carry", new)
        if self._fails:
            raise BundleError("the changes do not fit")

    def complete(self, new: Deployment) -> None:
        self._note("complete", new)

    def leave(self, old: Deployment) -> None:
        self._note("leave", old)


def test_what_lives_is_carried_over_before_the_swap_and_completed_at_it() -> None:
    async def main(house: House) -> None:
        house.reloader.carrier = diary = Diary(house)
        await house.reloader.load("stable", "new")
        assert diary.pages == [
            ("carry", "new", "old"),
            ("complete", "new", "old"),
            ("leave", "old", "new"),
        ]

    in_house(main)


def test_what_cannot_be_carried_over_ends_the_load() -> None:
    async def main(house: House) -> None:
        house.reloader.carrier = diary = Diary(house, fails=True)
        with pytest.raises(LoadFailed, match="the changes do not fit"):
            await house.reloader.load("stable", "new")
        assert house.answers() == {"stable": "old"}
        assert diary.pages == [("carry", "new", "old"), ("leave", "new", "old")]
        assert house.loader.freed == ["new"]

    in_house(main)


def test_listeners_are_told_how_each_load_ended() -> None:
    async def main(house: House) -> None:
        told: list[tuple[str, float, bool]] = []
        house.reloader.listeners.append(lambda *outcome: told.append(outcome))
        await house.reloader.load("stable", "new")
        house.loader.bad.add("bad")
        with pytest.raises(LoadFailed):
            await house.reloader.load("stable", "bad")
        assert told == [("stable", LOAD_S, True), ("stable", LOAD_S, False)]

    in_house(main)


def test_a_server_begins_without_the_labels_whose_bundles_are_bad() -> None:
    clock = Clock()

    async def main() -> None:
        house = House(clock, ("stable", "canary"))
        house.loader.bad.add("bad")
        await house.reloader.begin({"stable": "good", "canary": "bad"})
        assert house.answers() == {"stable": "good"}
        assert house.reloader.failed["canary"].reason == "bad is damaged"

    run_virtually(clock, main())


def test_a_server_does_not_begin_without_its_default_label() -> None:
    clock = Clock()

    async def main() -> None:
        house = House(clock, ("stable", "canary"))
        house.loader.bad.add("bad")
        with pytest.raises(BundleError, match="bad is damaged"):
            await house.reloader.begin({"stable": "bad", "canary": "good"})

    run_virtually(clock, main())
