"""`mmsr-serve` and what encodes for it under kill -9: what was acknowledged is there."""

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.every_file import SIZES
from support.kills import children, survivors
from support.serving import PATIENCE_S, Served, start
from support.tally import SEED, Tally, rounds
from support.tiny_live import picture, publish_live
from support.whole import assert_whole

from mmsr.bundle.repository import Repository
from mmsr.engine.client import RecommenderClient
from mmsr.engine.client_catalogue import CatalogueClient, Item
from mmsr.engine.errors import EngineError

KILLS = rounds(4, 50)
WORKER_KILLS = rounds(4, 60)
ITEMS = 40  # that are written again and again: fewer than there are spare rows
MOST_WRITES = 60  # that are acknowledged before a kill
DEADLINE_MS = 1e3 * PATIENCE_S


@contextmanager
def killed_at_the_end(root: Path, *flags: str) -> Iterator[Served]:
    served = start(root, *flags)
    try:
        yield served
    finally:
        served.process.kill()
        served.end()


class Writer(threading.Thread):
    """Writes items of which anyone can tell again what they are, until the server is gone."""

    def __init__(self, target: str, first: int, wanted: int) -> None:
        super().__init__(daemon=True)
        self.written = first  # versions that were acknowledged
        self.enough = threading.Event()  # so many were
        self.ended: EngineError | None = None
        self._target = target
        self._wanted = first + wanted

    def run(self) -> None:
        with CatalogueClient(self._target) as catalogue:
            try:
                while True:
                    catalogue.upsert([item_of(self.written + 1)], deadline_ms=DEADLINE_MS)
                    self.written += 1
                    if self.written == self._wanted:
                        self.enough.set()
            except EngineError as error:
                self.ended = error
                self.enough.set()


def item_of(version: int) -> Item:
    """Return the item that write number `version` writes."""
    return Item(
        item_id=f"new-{version % ITEMS}",
        title=f"written {version}",
        image_features=(float(version), 1.0, 2.0),
        popularity=version,
    )


def wrong(target: str, written: int) -> list[str]:
    """Return which items are not as their last acknowledged write, or the one after, left them."""
    found = []
    versions = range(max(1, written - ITEMS + 1), written + 1)
    with CatalogueClient(target) as catalogue:
        items = catalogue.get([f"new-{version % ITEMS}" for version in versions])
    titles = {state.item_id: state.title for state in items.items}
    for version in versions:
        right = [f"written {version}"]
        if version + ITEMS == written + 1:  # kept, and killed before it could say so
            right.append(f"written {written + 1}")
        if titles.get(f"new-{version % ITEMS}") not in right:
            found.append(f"write {version}: {titles.get(f'new-{version % ITEMS}')!r}")
    return found


def test_what_a_killed_server_has_acknowledged_is_served_by_the_next(
    tmp_path: Path, tally: Tally
) -> None:
    """kill -9 of `mmsr-serve` while its catalogue is written."""
    shop = publish_live(tmp_path / "repository", SIZES)
    choose = random.Random(SEED)
    database, written = tmp_path / "catalogue.db", 0
    for _ in range(KILLS + 1):
        with killed_at_the_end(shop.root, "--catalogue", str(database)) as served:
            problems = wrong(served.target, written) if written else []
            with RecommenderClient(served.target) as client:
                assert client.recommend(["item-1"], k=3, deadline_ms=DEADLINE_MS).items
            if tally.kills:
                if problems:
                    tally.lose("; ".join(problems))
                else:
                    tally.survived("the next server shows every acknowledged change")
            assert_whole(Repository(shop.root))
            if tally.kills == KILLS:
                break
            writer = Writer(served.target, written, choose.randint(1, MOST_WRITES))
            writer.start()
            assert writer.enough.wait(PATIENCE_S)
            assert writer.ended is None, writer.ended
            others = children(served.process.pid)
            served.process.kill()
            tally.kills += 1
            writer.join(PATIENCE_S)
            assert not survivors(others)
            written = writer.written
            served.end()
    assert written > KILLS
    tally.check(at_least=KILLS)


def test_a_killed_encoding_process_costs_no_item(tmp_path: Path, tally: Tally) -> None:
    """kill -9 of the processes that decode and encode for `mmsr-serve --catalogue`."""
    shop = publish_live(tmp_path / "repository", SIZES)
    choose = random.Random(SEED)
    with killed_at_the_end(shop.root, "--catalogue", str(tmp_path / "catalogue.db")) as served:
        with CatalogueClient(served.target) as catalogue:
            for n in range(WORKER_KILLS):
                red = choose.randrange(256)
                item = Item(
                    item_id=f"new-{n % ITEMS}", title="red cup", image=picture((red, n % 256, 0))
                )
                workers = children(served.process.pid)
                if workers:
                    os.kill(choose.choice(workers), signal.SIGKILL)
                    tally.kills += 1
                try:
                    catalogue.upsert([item], deadline_ms=DEADLINE_MS)
                except EngineError as error:
                    tally.lose(f"item {n}: {type(error).__name__}: {error}")
                    continue
                [state] = catalogue.get([item.item_id]).items
                if set(state.modalities) == {"image", "text"}:
                    tally.survived("another process takes over: the item has all its features")
                else:
                    tally.lose(f"item {n} has {state.modalities}")
        assert served.stop() == 0, served.log
        assert "Traceback" not in served.log
    tally.check(at_least=WORKER_KILLS)
