"""The catalogue's database locked, taken away and brought back; clocks that jump."""

import os
import random
import shutil
from pathlib import Path

import pytest
from support.every_file import SIZES
from support.live import row_of, run, shown
from support.serving import PATIENCE_S, start
from support.tally import SEED, Tally, rounds
from support.tiny_live import publish_live

from mmsr.engine.client import RecommenderClient
from mmsr.engine.client_catalogue import CatalogueClient, Item
from mmsr.engine.errors import StoreDamaged, StoreFailed, Unavailable
from mmsr.v1 import catalogue_pb2 as pb

TIMES = rounds(3, 20)
DEADLINE_MS = 1e3 * PATIENCE_S
FEATURES = (1.0, 2.0, 3.0)
YEAR_S = 3.15e7


def test_a_database_that_another_program_holds(tmp_path: Path, tally: Tally) -> None:
    """The catalogue's database locked by another program for longer than SQLite waits."""
    import sqlite3

    shop = publish_live(tmp_path / "repository", SIZES)
    path = tmp_path / "catalogue.db"
    served = start(shop.root, "--catalogue", str(path))
    try:
        with RecommenderClient(served.target) as client, CatalogueClient(served.target) as items:
            for n in range(rounds(1, 4)):  # SQLite waits for five seconds each time
                items.upsert([Item(item_id=f"new-{n}", image_features=FEATURES)])
                other = sqlite3.connect(path, isolation_level=None)
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(Unavailable, match="cannot be written: database is locked"):
                    items.set_availability([f"new-{n}"], available=False, deadline_ms=DEADLINE_MS)
                answered = client.recommend(["item-1"], k=3, deadline_ms=DEADLINE_MS).items
                other.execute("ROLLBACK")
                other.close()
                items.set_availability([f"new-{n}"], available=False, deadline_ms=DEADLINE_MS)
                [state] = items.get([f"new-{n}"]).items
                if answered and not state.available:
                    tally.survived("writes are refused with the reason, requests answered")
                else:
                    tally.lose(f"{answered}, {state}")
        assert served.stop() == 0, served.log
        assert "Traceback" not in served.log
    finally:
        served.process.kill()
        served.end()
    tally.check()


def test_a_database_that_is_gone_and_comes_back(tmp_path: Path, tally: Tally) -> None:
    """The catalogue's folder moved away while the server is down, and back again."""
    path, away = tmp_path / "store" / "catalogue.db", tmp_path / "away"
    choose = random.Random(SEED)

    async def write(item_id: str) -> None:
        async with shown(path) as it:
            live = await it.attach(shop.folder)
            await it.upsert(live, pb.Item(item_id=item_id, image_features=FEATURES))
            await it.detach(live)

    async def known() -> set[str]:
        async with shown(path) as it:
            return set(await it.catalogue.records([f"new-{n}" for n in range(TIMES)]))

    async def check(expected: set[str]) -> None:
        found = await known()
        assert found == expected, found ^ expected

    shop = publish_live(tmp_path / "repository", SIZES)
    for n in range(TIMES):
        run(write(f"new-{n}"))
        shutil.move(path.parent, away)
        run(check(set()))  # a new one: the bundle's items alone
        damaged = path.read_bytes()
        place = choose.randrange(100)
        path.write_bytes(damaged[:place] + choose.randbytes(len(damaged) - place))
        with pytest.raises((StoreDamaged, StoreFailed), match=str(path)):
            run(known_of(path))
        shutil.rmtree(path.parent)
        os.rename(away, path.parent)
        run(check({f"new-{m}" for m in range(n + 1)}))
        tally.survived(
            "begins anew, refuses what is no database, and has everything when it is back"
        )
    tally.check(at_least=TIMES)


async def known_of(path: Path) -> None:
    async with shown(path):
        pass


def test_clocks_that_jump(tmp_path: Path, tally: Tally) -> None:
    """The system's clock set forwards and backwards by decades between two writes."""
    shop = publish_live(tmp_path / "repository", SIZES)
    choose = random.Random(SEED)
    now_s = [1.7e9]

    async def main() -> None:
        async with shown(tmp_path / "catalogue.db", utc=lambda: now_s[0]) as it:
            live = await it.attach(shop.folder)
            before = it.catalogue.version
            for n in range(10 * TIMES):
                now_s[0] = 1.7e9 + choose.uniform(-40, 10) * YEAR_S
                item = pb.Item(
                    item_id="item-1", title=f"written {n}", image_features=(float(n), 2.0, 3.0)
                )
                await it.upsert(live, item)
                [record] = (await it.catalogue.records(["item-1"])).values()
                again = await it.attach(shop.folder)  # as a reload does
                is_shown = bool((row_of(again, "item-1") == row_of(live, "item-1")).all())
                await it.detach(again)
                version = it.catalogue.version
                assert record.content is not None
                right = record.content.title == f"written {n}" and version == before + 1
                if right and is_shown:
                    tally.survived("what was acknowledged last holds, also in the next bundle")
                else:
                    tally.lose(f"write {n}: {record}")
                before = version
            await it.detach(live)

    run(main())
    tally.check(at_least=10 * TIMES)
