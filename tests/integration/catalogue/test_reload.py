"""A live catalogue while the bundle behind it is replaced by a newer one, over a real socket."""

import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from support.serving import PATIENCE_S, serving, start
from support.tiny_bundle import Sizes
from support.tiny_live import publish_live

from mmsr.bundle.repository import Repository
from mmsr.v1 import catalogue_pb2 as pb
from mmsr.v1 import recommender_pb2 as rpb
from mmsr.v1.catalogue_pb2_grpc import CatalogueStub
from mmsr.v1.recommender_pb2_grpc import RecommenderStub

pytestmark = pytest.mark.slow
GIVEN = [1.0, 2.0, 3.0]


def best(channel: grpc.Channel, history: list[str]) -> set[str]:
    request = rpb.RecommendRequest(history=history, k=1000, exclude_seen=False)
    return set(RecommenderStub(channel).Recommend(request, timeout=PATIENCE_S).item_ids)


def test_a_hot_reload_keeps_every_live_change_and_writes_go_on_meanwhile(tmp_path: Path) -> None:
    first = publish_live(tmp_path / "repository")
    grown = Sizes(items=301)  # item-300 was bought meanwhile, and is trained
    with (
        serving(first.root, "--catalogue", str(tmp_path / "catalogue.db")) as served,
        grpc.insecure_channel(served.target) as channel,
    ):
        catalogue = CatalogueStub(channel)
        items = [pb.Item(item_id=i, image_features=GIVEN) for i in ("new-1", "item-300", "item-7")]
        catalogue.UpsertItems(pb.UpsertItemsRequest(items=items), timeout=PATIENCE_S)
        catalogue.DeleteItems(pb.DeleteItemsRequest(item_ids=["item-8"]))
        available = sorted(best(channel, ["item-1"]) - {"new-1", "item-300", "item-7"})[:1]
        catalogue.SetAvailability(pb.SetAvailabilityRequest(item_ids=available, available=False))
        writer = _Writer(catalogue)
        with writer:
            newest, exported = time.time(), datetime.now(UTC).isoformat()
            publish_live(first.root, grown, seed=1, newest=newest, exported=exported)
            served.wait_for(r"stable is [0-9a-f]{16} now")
            writer.wait_for_more()
        shown = best(channel, ["new-1"])
        assert {"new-1", "item-300", "item-7"} <= shown
        assert not {"item-8", *available} & shown
        assert {item_id for item_id in shown if item_id.startswith("written-")} == writer.written
        asked = pb.GetItemsRequest(item_ids=["new-1", "item-300", "item-7", "item-9"])
        states = catalogue.GetItems(asked, timeout=PATIENCE_S).items
        # The bundle was made from data that are newer than what was said of its items.
        assert [(s.item_id, s.trained, s.live) for s in states] == [
            ("new-1", False, True),
            ("item-300", True, False),
            ("item-7", True, False),
            ("item-9", True, False),
        ]


class _Writer:
    """Writes one item after the other; remembers those that were acknowledged."""

    def __init__(self, catalogue: CatalogueStub) -> None:
        self._catalogue = catalogue
        self._stopped = False
        self._news = threading.Condition()
        self.written: set[str] = set()
        self._count = 0
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join()

    def wait_for_more(self) -> None:
        """Wait until something was acknowledged that was not before."""
        with self._news:
            before = self._count
            assert self._news.wait_for(lambda: self._count > before + 2, PATIENCE_S)

    def _write(self) -> None:
        while not self._stopped:
            item_id = f"written-{self._count % 40}"
            item = pb.Item(item_id=item_id, image_features=GIVEN)
            self._catalogue.UpsertItems(pb.UpsertItemsRequest(items=[item]), timeout=PATIENCE_S)
            with self._news:
                self.written.add(item_id)
                self._count += 1
                self._news.notify_all()


def test_a_bundle_with_too_few_spare_rows_does_not_take_over(tmp_path: Path) -> None:
    first = publish_live(tmp_path / "repository", Sizes(items=55, spare=8))
    before = Repository(first.root).resolve("stable")
    served = start(first.root, "--catalogue", str(tmp_path / "catalogue.db"))
    try:
        with grpc.insecure_channel(served.target) as channel:
            items = [pb.Item(item_id=f"new-{n}", image_features=GIVEN) for n in range(6)]
            request = pb.UpsertItemsRequest(items=items)
            CatalogueStub(channel).UpsertItems(request, timeout=PATIENCE_S)
            publish_live(first.root, Sizes(items=60, spare=3))
            served.wait_for(r" ERROR .*6 rows are needed, 3 of the 3 spare ones")
            asked = rpb.RecommendRequest(history=["new-1"], k=3)
            answer = RecommenderStub(channel).Recommend(asked, timeout=PATIENCE_S)
            assert answer.model_version == before.name
            assert not answer.unknown_ids
        assert served.stop() == 0
        assert "Traceback" not in served.log
    finally:
        served.process.kill()
        served.end()
