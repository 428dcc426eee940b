"""The catalogue service of a real server, over a real socket."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from support.serving import PATIENCE_S, Served, serving, start
from support.tiny_bundle import Shop
from support.tiny_live import picture, publish_live

from mmsr.engine.client import CatalogueClient, Item
from mmsr.engine.errors import CatalogueFull
from mmsr.v1 import catalogue_pb2 as pb
from mmsr.v1 import recommender_pb2 as rpb
from mmsr.v1.catalogue_pb2_grpc import CatalogueStub
from mmsr.v1.recommender_pb2_grpc import RecommenderStub

ROUNDS = 60  # changes of the test under load


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish_live(tmp_path_factory.mktemp("shop") / "repository")


@pytest.fixture(scope="module")
def served(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("store") / "catalogue.db"
    with serving(shop.root, "--catalogue", str(path)) as found:
        yield found


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.target) as found:
        yield found


@pytest.fixture
def catalogue(channel: grpc.Channel) -> CatalogueStub:
    return CatalogueStub(channel)


def featured(item_id: str, *values: float, **said: object) -> pb.Item:
    return pb.Item(item_id=item_id, image_features=values, **said)  # type: ignore[arg-type]


def upsert(catalogue: CatalogueStub, *items: pb.Item) -> pb.UpsertItemsResponse:
    return catalogue.UpsertItems(pb.UpsertItemsRequest(items=items), timeout=PATIENCE_S)


def best(channel: grpc.Channel, history: list[str], k: int = 1000) -> dict[str, float]:
    request = rpb.RecommendRequest(history=history, k=k, exclude_seen=False)
    answer = RecommenderStub(channel).Recommend(request, timeout=PATIENCE_S)
    return dict(zip(answer.item_ids, answer.scores, strict=True))


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details() or ""


def test_a_new_item_with_image_and_text_is_recommended_from_its_content_at_once(
    channel: grpc.Channel, catalogue: CatalogueStub
) -> None:
    item = pb.Item(
        item_id="new/1",
        title="red cup",
        brand="Acme",
        categories=["cups", "gifts"],
        image=picture((250, 10, 10), "JPEG"),
        popularity=10_000,
    )
    done = upsert(catalogue, item)
    assert done.added_ids == ["new/1"]
    assert done.encode_us > 0
    assert next(iter(best(channel, []))) == "new/1"  # the most popular
    assert "new/1" in best(channel, ["item-1"])
    assert best(channel, ["new/1"])  # and it can stand in a history
    [state] = catalogue.GetItems(pb.GetItemsRequest(item_ids=["new/1"])).items
    assert state == pb.ItemState(
        item_id="new/1",
        title="red cup",
        categories=["cups", "gifts", "brand: Acme"],
        available=True,
        popularity=10_000,
        live=True,
        modalities=["image", "text", "category"],
    )
    again = upsert(catalogue, pb.Item(item_id="new/1", title="blue"))
    assert (list(again.added_ids), list(again.replaced_ids)) == ([], ["new/1"])
    [state] = catalogue.GetItems(pb.GetItemsRequest(item_ids=["new/1"])).items
    assert (state.popularity, list(state.modalities)) == (10_000, ["text"])
    assert not state.categories
    assert again.catalogue_version > done.catalogue_version


def test_a_live_item_counts_in_every_method(
    channel: grpc.Channel, catalogue: CatalogueStub
) -> None:
    recommender = RecommenderStub(channel)
    pair = [featured("twin-1", 9, 1, 5, categories=["twins"]), featured("twin-2", 9, 1, 5.1)]
    done = upsert(catalogue, *pair)
    upsert(catalogue, *pair)  # now each stands in another row than at first
    similar = rpb.SimilarRequest(item_id="twin-1", k=1, by=rpb.SIMILAR_BY_OUTPUT)
    assert list(recommender.Similar(similar, timeout=PATIENCE_S).item_ids) == ["twin-2"]
    scored = rpb.ScoreRequest(history=["twin-2"], candidate_ids=["twin-1", "item-5", "gone"])
    answer = recommender.Score(scored, timeout=PATIENCE_S)
    assert set(answer.item_ids) == {"twin-1", "item-5"}
    named = rpb.RecommendRequest(history=["item-1"], k=5, include_categories=["twins"])
    reply = recommender.Recommend(named, timeout=PATIENCE_S)
    assert list(reply.item_ids) == ["twin-1"]
    assert reply.catalogue_version > done.catalogue_version
    denied = rpb.RecommendRequest(history=["twin-1"], k=500, excluded_ids=["twin-2"])
    assert not {"twin-1", "twin-2"} & set(recommender.Recommend(denied).item_ids)
    catalogue.DeleteItems(pb.DeleteItemsRequest(item_ids=["twin-1"]))
    code, _ = refusal(lambda: recommender.Similar(similar, timeout=PATIENCE_S))
    assert code == "NOT_FOUND"


def test_deleted_and_unavailable_items_are_gone_and_unknown_ids_are_named(
    channel: grpc.Channel, catalogue: CatalogueStub
) -> None:
    shown = best(channel, ["item-1"])
    first, second, third = list(shown)[:3]
    gone = catalogue.DeleteItems(pb.DeleteItemsRequest(item_ids=[first, "nobody"]))
    off = catalogue.SetAvailability(
        pb.SetAvailabilityRequest(item_ids=[second, "nobody"], available=False)
    )
    assert list(gone.unknown_ids) == list(off.unknown_ids) == ["nobody"]
    assert next(iter(best(channel, ["item-1"]))) == third
    got = catalogue.GetItems(pb.GetItemsRequest(item_ids=[second, first, third]))
    assert [(state.item_id, state.available) for state in got.items] == [
        (second, False),
        (third, True),
    ]
    assert list(got.unknown_ids) == [first]
    catalogue.SetAvailability(pb.SetAvailabilityRequest(item_ids=[second], available=True))
    assert next(iter(best(channel, ["item-1"]))) == second
    upsert(catalogue, pb.Item(item_id=first, title="back again"))
    assert first in best(channel, ["item-1"])


def test_pages_go_through_all_items_in_order_also_while_they_change(
    catalogue: CatalogueStub, shop: Shop
) -> None:
    upsert(catalogue, *(featured(f"list-{n}", 1, 2, 3) for n in range(5)))
    seen: list[str] = []
    token = ""
    while True:
        page = catalogue.ListItems(pb.ListItemsRequest(page_size=50, page_token=token))
        seen += [state.item_id for state in page.items]
        assert len(page.items) == 50 or not page.next_page_token
        if not (token := page.next_page_token):
            break
        catalogue.DeleteItems(pb.DeleteItemsRequest(item_ids=[seen[-1], "list-4"]))
    assert seen == sorted(seen)
    assert set(shop.twin.ids) | {f"list-{n}" for n in range(5)} <= {*seen, "list-4"}
    reply = catalogue.ListItems(pb.ListItemsRequest())
    assert len(reply.items) == 100
    upsert(catalogue, *(pb.Item(item_id=i) for i in seen[49:200:50]))  # as they were, but content


def test_a_stream_is_acknowledged_message_by_message_until_one_is_wrong(
    channel: grpc.Channel, catalogue: CatalogueStub
) -> None:
    messages = [
        pb.UpsertItemsStreamRequest(items=[featured("stream-1", 1, 1, 1)]),
        pb.UpsertItemsStreamRequest(
            items=[featured("stream-1", 2, 2, 2), featured("stream-2", 1, 1, 1)]
        ),
        pb.UpsertItemsStreamRequest(items=[featured("stream-3", 1)]),
        pb.UpsertItemsStreamRequest(items=[featured("stream-4", 1, 1, 1)]),
    ]
    answers = catalogue.UpsertItemsStream(iter(messages), timeout=PATIENCE_S)
    counts = [next(answers).items, next(answers).items]
    assert counts == [1, 3]
    code, details = refusal(lambda: next(answers))
    assert code == "INVALID_ARGUMENT"
    assert details == "items[0].image_features has 1 numbers; expected 3"
    shown = best(channel, ["item-1"])
    assert {"stream-1", "stream-2"} <= shown.keys()
    assert not {"stream-3", "stream-4"} & shown.keys()
    catalogue.DeleteItems(pb.DeleteItemsRequest(item_ids=["stream-1", "stream-2"]))


WRONG = {
    "items has 0 entries; expected 1 to 1,000": pb.UpsertItemsRequest(),
    "items[0].item_id has 0 bytes ('')": pb.UpsertItemsRequest(items=[pb.Item()]),
    "items[0].item_id has 600 bytes": pb.UpsertItemsRequest(items=[pb.Item(item_id="ü" * 300)]),
    "items[1].item_id is 'a' again": pb.UpsertItemsRequest(items=[pb.Item(item_id="a")] * 2),
    "items[0].title has 100001 bytes": pb.UpsertItemsRequest(
        items=[pb.Item(item_id="a", title="x" * 100_001)]
    ),
    "items[0].categories has 101 entries": pb.UpsertItemsRequest(
        items=[pb.Item(item_id="a", categories=["x"] * 101)]
    ),
    "items[0].categories[1] is empty": pb.UpsertItemsRequest(
        items=[pb.Item(item_id="a", categories=["x", ""])]
    ),
    "items[0].categories[0] has 513 bytes": pb.UpsertItemsRequest(
        items=[pb.Item(item_id="a", categories=["x" * 513])]
    ),
    "items[0].popularity is 9223372036854775808": pb.UpsertItemsRequest(
        items=[pb.Item(item_id="a", popularity=2**63)]
    ),
    "items[0] has both image and image_features": pb.UpsertItemsRequest(
        items=[featured("a", 1, 2, 3, image=b"x")]
    ),
    "items[0].image has 3145729 bytes": pb.UpsertItemsRequest(
        items=[pb.Item(item_id="a", image=b"x" * (3 * 2**20 + 1))]
    ),
    "items[0].image: not an image": pb.UpsertItemsRequest(items=[pb.Item(item_id="a", image=b"x")]),
    "items[0].text_features holds -3e+38; expected numbers of at most 1,000,000": (
        pb.UpsertItemsRequest(items=[pb.Item(item_id="a", text_features=[0, 0, 0, 0, -3e38])])
    ),
    "items[0].image_features holds nan; expected numbers": pb.UpsertItemsRequest(
        items=[featured("a", 1, 2, float("nan"))]
    ),
    "items[0].text_features has 1 numbers; expected 5": pb.UpsertItemsRequest(
        items=[pb.Item(item_id="a", text_features=[1])]
    ),
}


@pytest.mark.parametrize("reason", WRONG)
def test_a_field_out_of_its_range_is_named(catalogue: CatalogueStub, reason: str) -> None:
    code, details = refusal(lambda: catalogue.UpsertItems(WRONG[reason], timeout=PATIENCE_S))
    assert code == "INVALID_ARGUMENT"
    assert reason in details


def test_so_is_one_of_the_other_methods(catalogue: CatalogueStub) -> None:
    many = ["a"] * 10_001
    for call, reason in (
        (lambda: catalogue.DeleteItems(pb.DeleteItemsRequest()), "item_ids has 0 entries"),
        (lambda: catalogue.DeleteItems(pb.DeleteItemsRequest(item_ids=many)), "1 to 10,000"),
        (lambda: catalogue.GetItems(pb.GetItemsRequest(item_ids=many[:1001])), "1 to 1,000"),
        (
            lambda: catalogue.SetAvailability(pb.SetAvailabilityRequest(item_ids=["a", ""])),
            "item_ids[1] has 0 bytes",
        ),
        (lambda: catalogue.ListItems(pb.ListItemsRequest(page_size=1001)), "page_size is 1001"),
        (lambda: catalogue.ListItems(pb.ListItemsRequest(page_token="*")), "page_token '*'"),
    ):
        code, details = refusal(call)
        assert code == "INVALID_ARGUMENT"
        assert reason in details


def test_more_items_than_spare_rows_are_refused_with_their_number(
    served: Served, catalogue: CatalogueStub
) -> None:
    items = [featured(f"many-{n}", 1, 2, 3) for n in range(100)]
    code, details = refusal(lambda: upsert(catalogue, *items))
    assert code == "RESOURCE_EXHAUSTED"
    assert "of the 83 spare ones" in details
    new = [Item(item_id=f"many-{n}") for n in range(100)]
    with (
        CatalogueClient(served.target) as client,
        pytest.raises(CatalogueFull, match="of the 83 spare ones"),
    ):
        client.upsert(new)


def test_under_load_no_torn_row_is_read_and_nothing_deleted_comes_back(
    served: Served, catalogue: CatalogueStub
) -> None:
    """An item's score goes up by as much with each number that it has: a torn row's does not."""
    scores = []
    with grpc.insecure_channel(served.target) as channel:
        for number in (0, 1):
            upsert(catalogue, featured("torn", number, number, number))
            scores.append(best(channel, ["item-1"])["torn"])
    load = _Load(served.target, scores[0], scores[1] - scores[0])
    with load:
        for number in range(2, ROUNDS):
            load.allow()
            upsert(catalogue, featured("torn", number, number, number))
            load.wait_for_answers(3)
            if number % 3 == 0:
                catalogue.DeleteItems(pb.DeleteItemsRequest(item_ids=["torn"]))
                load.forbid()
                load.wait_for_answers(3)
            if number % 3 == 1:
                catalogue.SetAvailability(
                    pb.SetAvailabilityRequest(item_ids=["torn"], available=False)
                )
                load.forbid()
                load.wait_for_answers(3)
    assert not load.wrong
    assert load.seen > ROUNDS


class _Load:
    """Threads that ask for all items and look at one of them."""

    def __init__(self, target: str, zero: float, unit: float) -> None:
        self._target, self._zero, self._unit = target, zero, unit
        self._change = threading.Condition()
        self._forbidden = self._times = self._answers = 0
        self._stopped = False
        self.seen = 0
        self.wrong: list[str] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        for thread in self._threads:
            thread.join()

    def allow(self) -> None:
        """Say that the item may be returned from now on."""
        with self._change:
            self._forbidden = 0

    def forbid(self) -> None:
        """Say that it must not be, by what is asked from now on."""
        with self._change:
            self._times += 1
            self._forbidden = self._times

    def wait_for_answers(self, count: int) -> None:
        """Wait for answers to requests that are sent from now on."""
        with self._change:
            until = self._answers + count + len(self._threads)
            assert self._change.wait_for(lambda: self._answers >= until, PATIENCE_S)

    def _ask(self) -> None:
        with grpc.insecure_channel(self._target) as channel:
            while not self._stopped:
                before = self._forbidden
                score = best(channel, ["item-1"]).get("torn")
                with self._change:
                    self._answers += 1
                    self._change.notify_all()
                    if score is not None:
                        self._look_at(score, before > 0 and before == self._forbidden)

    def _look_at(self, score: float, forbidden: bool) -> None:
        self.seen += 1
        number = (score - self._zero) / self._unit
        if forbidden:
            self.wrong.append(f"returned with {number} though it was gone")
        if abs(number - round(number)) > 1e-3 or not 1 <= round(number) < ROUNDS:
            self.wrong.append(f"torn: {number}")


def test_kill_9_loses_nothing_that_was_acknowledged(shop: Shop, tmp_path: Path) -> None:
    flags = ("--catalogue", str(tmp_path / "catalogue.db"))
    for round_ in range(3):
        served = start(shop.root, *flags)
        with grpc.insecure_channel(served.target) as channel:
            catalogue, shown = CatalogueStub(channel), best(channel, ["item-1"])
            assert {f"new-{past}" for past in range(round_)} <= shown.keys()
            assert not {f"item-{past + 10}" for past in range(round_)} & shown.keys()
            upsert(catalogue, featured(f"new-{round_}", round_, 1, 2))
            gone = pb.DeleteItemsRequest(item_ids=[f"item-{round_ + 10}"])
            catalogue.DeleteItems(gone)
        served.process.kill()
        served.end()


def test_a_server_without_a_catalogue_says_so(shop: Shop) -> None:
    with serving(shop.root) as served, grpc.insecure_channel(served.target) as channel:
        catalogue = CatalogueStub(channel)
        for call in (
            lambda: upsert(catalogue, featured("a", 1, 2, 3)),
            lambda: catalogue.GetItems(pb.GetItemsRequest(item_ids=["item-1"])),
            lambda: list(catalogue.UpsertItemsStream(iter([pb.UpsertItemsStreamRequest()]))),
        ):
            code, details = refusal(call)
            assert code == "FAILED_PRECONDITION"
            assert "started without --catalogue" in details


def test_a_damaged_catalogue_is_one_line_at_the_start(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    path.write_text("no database")
    served = start(shop.root, "--catalogue", str(path))
    assert served.end() == 1
    errors = [line for line in served.lines if "catalogue.db" in line]
    assert len(errors) == 1
    assert "file is not a database" in errors[0]
    assert "Traceback" not in served.log
