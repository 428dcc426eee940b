"""The live catalogue in one process: several bundles, restarts, encoders that change."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.live import Shown, row_of, run, shown
from support.tiny_bundle import Shop, Sizes
from support.tiny_live import IMAGE_WIDTH, NEWEST_S, expected_output, publish_live

from mmsr.engine.catalogue.live_rows import LiveRows, Plan
from mmsr.engine.catalogue.records import Write
from mmsr.engine.catalogue.store import SqliteStore
from mmsr.engine.errors import CatalogueFull, InvalidRequest, StoreFailed
from mmsr.engine.model import RowRequest
from mmsr.v1 import catalogue_pb2 as pb

SIZES = Sizes(items=55, spare=8, probes=4)
GIVEN = [1.0, 2.0, 3.0]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish_live(tmp_path_factory.mktemp("shop") / "repository", SIZES)


def featured(item_id: str, values: list[float] = GIVEN, **said: object) -> pb.Item:
    return pb.Item(item_id=item_id, image_features=values, **said)  # type: ignore[arg-type]


def close_to(row: object) -> object:
    return pytest.approx(row, rel=1e-5)


def test_what_was_acknowledged_is_seen_at_once_and_after_a_restart(
    shop: Shop, tmp_path: Path
) -> None:
    async def write() -> None:
        async with shown(tmp_path / "c.db") as it:
            live = await it.attach(shop.folder)
            done = await it.upsert(live, featured("new-1"), featured("item-1"))
            assert (done.version, done.added, done.replaced) == (1, ["new-1"], ["item-1"])
            done = await it.catalogue.delete(["item-2", "nobody", "nobody"])
            assert (done.version, done.unknown) == (2, ["nobody"])
            done = await it.catalogue.set_available(["item-3", "nobody"], False)
            assert (done.version, done.unknown) == (3, ["nobody"])
            await check(it, live)
            await it.detach(live)

    async def check(it: Shown, live: LiveRows) -> None:
        best = await it.best(live, ["new-1"])
        assert "new-1" in best
        assert not {"item-2", "item-3"} & set(best)
        assert row_of(live, "new-1") == close_to(expected_output(shop, image=GIVEN))
        assert row_of(live, "item-1") == close_to(expected_output(shop, trained=2, image=GIVEN))
        assert live.index.version == it.catalogue.version == 3

    async def again() -> None:
        async with shown(tmp_path / "c.db") as it:
            live = await it.attach(shop.folder)
            await check(it, live)
            await it.catalogue.set_available(["item-3"], True)
            assert ("item-3" in await it.best(live, ["new-1"])) is True
            await it.upsert(live, featured("item-2"))  # deleted, and written again
            assert row_of(live, "item-2") == close_to(expected_output(shop, trained=3, image=GIVEN))
            await it.detach(live)

    run(write())
    run(again())


def test_a_new_bundle_gets_what_it_does_not_contain_and_a_rollback_finds_all(
    shop: Shop, tmp_path: Path
) -> None:
    """Contained: the item is trained, and was written before the newest of the bundle's data."""
    grown = Sizes(items=57, spare=6, probes=4)  # item-55 and item-56 were bought meanwhile
    night = publish_live(tmp_path / "next", grown, seed=1, newest=NEWEST_S + 100)
    clock = [NEWEST_S + 50]  # before the night's data end

    async def main() -> None:
        async with shown(tmp_path / "c.db", lambda: clock[0]) as it:
            live = await it.attach(shop.folder)
            await it.upsert(live, featured("item-55"), featured("item-1"), featured("new-1"))
            clock[0] = NEWEST_S + 150  # after it
            await it.upsert(live, featured("item-56"), featured("item-2"))
            await it.catalogue.delete(["item-3"])
            after = await it.attach(night.folder)
            twin = night.twin
            for item_id in ("item-55", "item-1"):  # the bundle knows them
                assert (row_of(after, item_id) == twin.outputs_CD[1 + int(item_id[5:])]).all()
            for item_id, trained in (("item-56", 57), ("item-2", 3), ("new-1", 0)):
                row = expected_output(night, trained=trained, image=GIVEN)
                assert row_of(after, item_id) == close_to(row)
            assert "item-3" not in after.index  # deleted is deleted, whatever bundles hold
            assert after.spare_rows == 6 - len({"new-1"}) + len({"item-3"})
            await it.detach(live)
            back = await it.attach(shop.folder)
            assert row_of(back, "item-55") == close_to(expected_output(shop, image=GIVEN))
            await it.detach(back)
            await it.detach(after)

    run(main())


def test_while_two_bundles_are_in_use_every_change_shows_in_both(
    shop: Shop, tmp_path: Path
) -> None:
    other = publish_live(tmp_path / "other", SIZES, seed=1)

    async def main() -> None:
        async with shown(tmp_path / "c.db") as it:
            first = await it.attach(shop.folder)
            writing = [
                asyncio.create_task(it.upsert(first, featured(f"new-{n}", [0.0, 0.0, float(n)])))
                for n in range(4)
            ]
            second = await it.attach(other.folder)  # meanwhile
            await asyncio.gather(*writing)
            await it.catalogue.delete(["new-0"])
            for live, of in ((first, shop), (second, other)):
                assert "new-0" not in live.index
                for n in range(1, 4):
                    row = expected_output(of, image=[0.0, 0.0, float(n)])
                    assert row_of(live, f"new-{n}") == close_to(row)
            await it.detach(second)
            await it.upsert(first, featured("new-9"))
            assert "new-9" not in second.index
            await it.detach(first)

    run(main())


def test_an_item_has_its_name_as_soon_as_an_answer_can_meet_it(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The most popular are looked up by the event loop, between what `apply` and `show` do."""
    met: list[list[str]] = []
    apply = LiveRows.apply

    def applied(live: LiveRows, plan: Plan) -> list[int]:
        left = apply(live, plan)
        everything = live.model.named.most_popular(RowRequest([], [], 1000))
        met.append(live.index.ids_of(everything.rows))
        return left

    monkeypatch.setattr(LiveRows, "apply", applied)

    async def main() -> None:
        async with shown(tmp_path / "c.db") as it:
            live = await it.attach(shop.folder)
            for n in range(20):  # more than there are spare rows: later numbers are no rows
                await it.upsert(live, featured(f"new-{n}"))
                assert f"new-{n}" in met[-1]
                assert "" not in met[-1]
                await it.catalogue.delete([f"new-{n}"])
                assert f"new-{n}" not in met[-1]
            await it.detach(live)

    run(main())


def test_items_beyond_the_spare_rows_are_refused_alone(shop: Shop, tmp_path: Path) -> None:
    async def main() -> None:
        async with shown(tmp_path / "c.db") as it:
            live = await it.attach(shop.folder)
            many = [featured(f"new-{n}") for n in range(9)]
            few = [featured(f"few-{n}") for n in range(6)]
            fate = await asyncio.gather(
                it.upsert(live, *many), it.upsert(live, *few), return_exceptions=True
            )
            assert isinstance(fate[0], CatalogueFull)
            assert "9 rows are needed, 8 of the 8 spare ones" in str(fate[0])
            assert not isinstance(fate[1], BaseException)
            assert live.spare_rows == 2
            smaller = publish_live(tmp_path / "small", Sizes(items=60, spare=3, probes=4))
            with pytest.raises(CatalogueFull, match="6 rows are needed, 3 of the 3 spare ones"):
                await it.attach(smaller.folder)
            await it.upsert(live, featured("few-1"))
            await it.detach(live)

    run(main())


class FullDisk(SqliteStore):
    """A store whose disk is full as long as it is said to be."""

    is_full = True

    def commit(self, writes: Sequence[Write], version: int) -> None:
        if self.is_full:
            raise StoreFailed("catalogue c.db cannot be written: database or disk is full")
        super().commit(writes, version)


def test_what_cannot_be_kept_is_not_shown_and_takes_no_row(shop: Shop, tmp_path: Path) -> None:
    store = FullDisk(tmp_path / "c.db", 1 << 20)

    def opened(path: Path, image_bytes: int) -> FullDisk:
        store.open()
        return store

    async def main() -> None:
        async with shown(tmp_path / "c.db", open_store=opened) as it:
            live = await it.attach(shop.folder)
            with pytest.raises(StoreFailed, match="disk is full"):
                await it.upsert(live, featured("new-1"))
            assert "new-1" not in live.index
            assert (live.spare_rows, it.catalogue.version) == (8, 0)
            store.is_full = False
            done = await it.upsert(live, featured("new-1"))
            assert (done.version, done.added) == (1, ["new-1"])
            await it.detach(live)

    run(main())


def test_messages_that_wait_together_are_kept_in_one_commit(shop: Shop, tmp_path: Path) -> None:
    async def main() -> None:
        async with shown(tmp_path / "c.db") as it:
            live = await it.attach(shop.folder)
            fate = await asyncio.gather(
                *(it.catalogue.set_available([f"item-{n}"], False) for n in range(10)),
                it.catalogue.set_available(["item-1"], True),
            )
            assert len({done.version for done in fate}) < len(fate)
            assert "item-1" in await it.best(live, ["item-5"])
            await it.detach(live)

    run(main())


def test_the_width_of_features_is_the_bundles(shop: Shop, tmp_path: Path) -> None:
    async def main() -> None:
        async with shown(tmp_path / "c.db") as it:
            live = await it.attach(shop.folder)
            assert live.reader.encoders["image"].width == IMAGE_WIDTH
            with pytest.raises(InvalidRequest, match=r"image_features has 2 numbers; expected 3"):
                await it.upsert(live, featured("new-1", [1.0, 2.0]))
            await it.detach(live)

    run(main())
