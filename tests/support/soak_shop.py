"""The bundles of a soak, what is asked of them, and what is written to their catalogue."""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from support.soak_oracle import History, Said, switched
from support.tiny_bundle import Shop, Sizes
from support.tiny_explain import with_explain
from support.tiny_live import CATEGORIES, expected_output, picture, publish_live, weights

from mmsr.bundle.repository import Repository
from mmsr.engine.client_catalogue import CatalogueClient, Item
from mmsr.engine.errors import EngineError
from mmsr.v1 import recommender_pb2 as pb

SIZES = Sizes(items=2000, spare=300, width=32, probes=40, max_length=20)
BUNDLES = 3
NEW = 100  # ids that come and go
TOUCHED = 60  # trained items that are switched, rewritten, deleted and written again
REQUESTS = 2000
ENCODED_EVERY = 20  # upserts: these bring an image and a text
WORDS = ("red", "blue", "cup", "lamp")
PATIENCE_MS = 120_000.0


def publish_bundles(root: Path) -> list[Shop]:
    """Publish the bundles; `stable` is the first."""
    shops = [publish_live(root, SIZES, seed=seed, complete=with_explain) for seed in range(BUNDLES)]
    Repository(root).promote(shops[0].folder.name, "stable")
    return shops


def requests(seed: int) -> list[bytes]:
    """Return what is asked: histories of all lengths, some unknown ids, filters of every kind."""
    choose = random.Random(seed)
    return [request(choose).SerializeToString() for _ in range(REQUESTS)]


def request(choose: random.Random) -> pb.RecommendRequest:
    """Return one request."""
    asked = pb.RecommendRequest(history=history(choose), k=choose.choice((1, 5, 10, 10, 20)))
    kind = choose.random()
    if kind < 0.15:
        asked.excluded_ids.extend(item(choose) for _ in range(choose.randint(1, 30)))
    elif kind < 0.20:
        asked.allowed.item_ids.extend(item(choose) for _ in range(choose.randint(1, 40)))
    elif kind < 0.25:
        asked.include_categories.append(choose.choice(("kind-3", "shade-1", "cups")))
    elif kind < 0.30:
        asked.exclude_categories.append(choose.choice(("kind-2", "lamps")))
    elif kind < 0.35:
        asked.only_available = False
    return asked


def history(choose: random.Random) -> list[str]:
    """Return a history, now and then an empty one."""
    return [item(choose) for _ in range(choose.choice((0, 1, 2, 5, 10, 20, 20, 30)))]


def item(choose: random.Random) -> str:
    """Return an id: mostly a trained one, often one that is written, seldom an unknown one."""
    kind = choose.random()
    if kind < 0.70:
        return f"item-{choose.randrange(SIZES.items)}"
    if kind < 0.82:
        return new_id(choose)
    return touched_id(choose) if kind < 0.97 else "nobody-has-it"


def new_id(choose: random.Random) -> str:
    """Return one of the ids that come and go."""
    return f"new-{choose.randrange(NEW)}"


def touched_id(choose: random.Random) -> str:
    """Return one of the trained items that are written."""
    return f"item-{choose.randrange(TOUCHED)}"


@dataclass(frozen=True, kw_only=True)
class Write:
    """One change: how it is sent, and what is said by it."""

    send: Callable[[CatalogueClient], int]  # returns the version that it made
    said_of: Mapping[str, Said]


class Writes:
    """Draws one change after the other."""

    def __init__(self, shop: Shop, seed: int) -> None:
        self.shop = shop
        self.choose = random.Random(seed)
        self.upserts = 0

    def next(self, newest: Mapping[str, Said]) -> Write:
        """Return a change of a catalogue as it is."""
        kind = self.choose.random()
        if kind < 0.5:
            return self._upsert()
        ids = list({self._any() for _ in range(self.choose.randint(1, 5))})
        if kind < 0.8:
            return self._switch(ids, newest)
        return Write(
            send=lambda client: client.delete(ids, deadline_ms=PATIENCE_MS).catalogue_version,
            said_of={item_id: Said(present=False, available=False) for item_id in ids},
        )

    def _any(self) -> str:
        return (new_id if self.choose.random() < 0.6 else touched_id)(self.choose)

    def _switch(self, ids: Sequence[str], newest: Mapping[str, Said]) -> Write:
        available = self.choose.random() < 0.6
        said_of = {}
        for item_id in ids:
            if item_id.startswith("new-") and item_id not in newest:
                continue  # nobody has it
            found = switched(newest.get(item_id), available)
            if found is not None:
                said_of[item_id] = found

        def send(client: CatalogueClient) -> int:
            done = client.set_availability(ids, available, deadline_ms=PATIENCE_MS)
            return done.catalogue_version

        return Write(send=send, said_of=said_of)

    def _upsert(self) -> Write:
        self.upserts += 1
        ids = list({self._any() for _ in range(self.choose.randint(1, 3))})
        make = self._encoded if self.upserts % ENCODED_EVERY == 1 else self._featured
        made = [make(item_id) for item_id in ids]
        items = [item for item, _ in made]
        return Write(
            send=lambda client: client.upsert(items, deadline_ms=PATIENCE_MS).catalogue_version,
            said_of={item.item_id: said for item, said in made},
        )

    def _featured(self, item_id: str) -> tuple[Item, Said]:
        draw = self.choose
        image = [round(draw.uniform(-2, 2), 3) for _ in range(3)]
        text = [round(draw.uniform(-2, 2), 3) for _ in range(5)]
        categories = draw.sample(CATEGORIES[:2], draw.randint(0, 2))
        vector_D = expected_output(
            self.shop, trained=trained(item_id), image=image, text=text, categories=categories
        )
        available, popularity = draw.random() < 0.9, draw.randrange(60)
        item = Item(
            item_id=item_id,
            image_features=image,
            text_features=text,
            categories=categories,
            available=available,
            popularity=popularity,
        )
        said = Said(
            available=available,
            vector_D=vector_D,
            categories=tuple(categories),
            popularity=popularity,
        )
        return item, said

    def _encoded(self, item_id: str) -> tuple[Item, Said]:
        """Return an item whose image and text the server encodes: a colour and some words."""
        draw = self.choose
        colour = tuple(draw.randrange(8) for _ in range(3))
        words = draw.sample(WORDS, 2)
        vectors = weights(1)["words"]
        places = {"red": 2, "blue": 3, "cup": 4, "lamp": 5}
        text = np.sum([vectors[places[word]] for word in words], axis=0)
        vector_D = expected_output(
            self.shop,
            trained=trained(item_id),
            image=[float(value) for value in colour],
            text=text.tolist(),
        )
        item = Item(
            item_id=item_id,
            title=" ".join(words),
            image=picture((colour[0], colour[1], colour[2])),
            popularity=1,
        )
        return item, Said(vector_D=vector_D, popularity=1)


def trained(item_id: str) -> int:
    """Return an item's trained row; 0: none."""
    return int(item_id[5:]) + 1 if item_id.startswith("item-") else 0


class Writer(threading.Thread):
    """Writes at random moments, so many a second, until told to stop."""

    def __init__(self, target: str, writes: Writes, per_s: float, history: History) -> None:
        super().__init__(daemon=True, name="soak-writer")
        self.count = 0  # acknowledged
        self.failed: list[str] = []
        self._target = target
        self._writes = writes
        self._per_s = per_s
        self._history = history
        self._stop_now = threading.Event()

    def stop(self) -> None:
        """End; returns when the last write is acknowledged."""
        self._stop_now.set()
        self.join(PATIENCE_MS / 1e3)
        assert not self.is_alive()

    def run(self) -> None:
        """Write."""
        draw = random.Random(1)
        with CatalogueClient(self._target) as client:
            while not self._stop_now.wait(draw.expovariate(self._per_s)):
                self._write(client)

    def _write(self, client: CatalogueClient) -> None:
        write = self._writes.next(self._history.newest)
        # Before it is sent: a reply that has seen it may be there before its acknowledgement.
        self._history.begin(write.said_of, time.perf_counter())
        try:
            version = write.send(client)
        except EngineError as error:
            self._fail(f"{type(error).__name__}: {error}")
            return
        self._history.acknowledge(time.perf_counter())
        self.count += 1
        if version != len(self._history) - 1:
            self._fail(f"it made version {version}, expected {len(self._history) - 1}")

    def _fail(self, why: str) -> None:
        """Stop: nobody knows what the catalogue is now."""
        self.failed.append(why)
        self._stop_now.set()
