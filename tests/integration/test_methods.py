"""Every method of the recommender service over a real socket, beside brute force."""

import asyncio
import concurrent.futures
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.full_bundle import (
    Filters,
    cosines_to,
    eligible,
    publish_full,
    ranked,
    scores_after,
)
from support.serving import PATIENCE_S, Served, serving
from support.tiny_bundle import Shop, Twin, manifest_of, publish, seal

from mmsr.bundle.repository import Repository
from mmsr.engine.client import (
    AsyncRecommenderClient,
    Neighbours,
    Recommendations,
    RecommenderClient,
    Request,
    Retries,
    StreamAnswer,
    StreamRequest,
)
from mmsr.engine.errors import (
    DeadlineTooShort,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from mmsr.v1 import recommender_pb2 as pb

FILTER_SETS = 300
ALONE = 32  # calls at a time: a busy server reads no more than 64
ATOL = 1e-4  # numpy and ONNX Runtime sum in other orders
ONCE = Retries(tries=1)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish_full(tmp_path_factory.mktemp("shop") / "repository")


@pytest.fixture(scope="module")
def server(shop: Shop) -> Iterator[Served]:
    with serving(shop.root) as served:
        yield served


@pytest.fixture
def client(server: Served) -> Iterator[RecommenderClient]:
    with RecommenderClient(server.target, PATIENCE_S, retries=ONCE) as opened:
        opened.wait_until_serving(PATIENCE_S)
        yield opened


def asked(target: str, main: Callable[[AsyncRecommenderClient], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        async with AsyncRecommenderClient(target, PATIENCE_S, retries=ONCE) as opened:
            await opened.wait_until_serving(PATIENCE_S)
            await asyncio.wait_for(main(opened), PATIENCE_S)

    asyncio.run(inside())


class Drawn:
    """Random requests, from nothing allowed to everything."""

    def __init__(self, twin: Twin, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.twin = twin
        self.names = sorted({name for names in twin.categories for name in names})

    def ids(self, most: int) -> list[str]:
        count = int(self.random.integers(0, most + 1))
        places = self.random.choice(len(self.twin.ids), count, replace=False)
        return [self.twin.ids[place] for place in places.tolist()]

    def categories(self) -> list[str]:
        names = [*self.names, "no item has it"]
        return [names[n] for n in self.random.integers(0, len(names), self.random.integers(0, 4))]

    def filters(self) -> Filters:
        everything = len(self.twin.ids)
        allowed = None
        if self.random.random() < 0.5:
            most = int(self.random.choice([1, 3, 30, everything]))
            allowed = [*self.ids(most), "nobody knows it"]
        return Filters(
            excluded_ids=self.ids(int(self.random.choice([0, 5, everything]))),
            allowed_ids=allowed,
            include_categories=self.categories() if self.random.random() < 0.5 else (),
            exclude_categories=self.categories() if self.random.random() < 0.3 else (),
            only_available=bool(self.random.random() < 0.7),
        )

    def request(self) -> tuple[Request, Filters]:
        filters = self.filters()
        history = self.ids(15)
        request = Request(
            history=history,
            k=int(self.random.choice([1, 7, 50, 1000])),
            exclude_seen=bool(self.random.random() < 0.5),
            **vars(filters),
        )
        return request, filters


def expected(twin: Twin, request: Request, filters: Filters) -> list[str]:
    """Return the right answer, item by item from the full score vector."""
    history = list(request.history)
    places = eligible(twin, filters, history if request.exclude_seen else ())
    values = scores_after(twin, history) if history else [float(n) for n in twin.popularity_N]
    return ranked(twin, values, places)[: request.k]


def ids_of(answer: object) -> list[str]:
    """Return the ids of an answer, which must not be an error."""
    assert isinstance(answer, Recommendations), answer
    return [item_id for item_id, _ in answer.items]


def check(twin: Twin, request: Request, filters: Filters, answer: Recommendations) -> None:
    assert ids_of(answer) == expected(twin, request, filters)
    assert answer.fallback == (None if request.history else "popularity")
    if request.history:
        place = {item_id: n for n, item_id in enumerate(twin.ids)}
        scores = scores_after(twin, list(request.history))
        for item_id, score in answer.items:
            assert score == pytest.approx(scores[place[item_id]], abs=ATOL)


def test_filters_are_those_of_brute_force(server: Served, shop: Shop) -> None:
    """Each set by itself, in one call with others, and on a stream: always the same answer."""
    drawn = Drawn(shop.twin, seed=3)
    wanted = [drawn.request() for _ in range(FILTER_SETS)]

    async def main(opened: AsyncRecommenderClient) -> None:
        at_once = asyncio.Semaphore(ALONE)

        async def one(request: Request) -> Recommendations:
            async with at_once:
                return await alone(opened, request)

        singles = await asyncio.gather(*(one(request) for request, _ in wanted))
        together = await opened.recommend_batch([request for request, _ in wanted])
        messages = [StreamRequest(key=str(n), request=r) for n, (r, _) in enumerate(wanted)]
        streamed = {a.key: a.result async for a in opened.recommend_stream(messages)}
        for number, (request, filters) in enumerate(wanted):
            for answer in (singles[number], together[number], streamed[str(number)]):
                assert isinstance(answer, Recommendations)
                check(shop.twin, request, filters, answer)

    asked(server.target, main)


async def alone(opened: AsyncRecommenderClient, request: Request) -> Recommendations:
    return await opened.recommend(
        request.history,
        request.k,
        excluded_ids=request.excluded_ids,
        allowed_ids=request.allowed_ids,
        include_categories=request.include_categories,
        exclude_categories=request.exclude_categories,
        only_available=request.only_available,
        exclude_seen=request.exclude_seen,
    )


def test_as_many_come_back_as_are_asked_for_and_eligible(
    client: RecommenderClient, shop: Shop
) -> None:
    everything = client.recommend(["item-1"], 1000, exclude_seen=False, only_available=False)
    assert len(everything.items) == shop.sizes.items
    assert client.recommend(["item-1"], 5, allowed_ids=[]).items == ()
    assert client.recommend(["item-1"], 5, include_categories=["nothing has it"]).items == ()
    assert client.recommend([], 5, include_categories=["nothing has it"]).items == ()
    one = client.recommend(["item-1"], 5, allowed_ids=["item-7"], only_available=False)
    assert [item_id for item_id, _ in one.items] == ["item-7"]


def test_a_reply_says_which_catalogue_it_has_seen(client: RecommenderClient) -> None:
    assert client.recommend(["item-1"], 3, user_key="user-17").catalogue_version == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"allowed_ids": ["item-1"] * 10_001}, "allowed has 10001 ids; expected at most 10000"),
        ({"allowed_ids": [""]}, "allowed holds an empty id"),
        ({"excluded_ids": ["x" * 513]}, "excluded_ids holds an id of 513 bytes"),
        ({"include_categories": ["a"] * 1001}, "include_categories has 1001 names; .* most 1000"),
        ({"exclude_categories": [""]}, "exclude_categories holds an empty name"),
        ({"include_categories": ["é" * 300]}, "include_categories holds a name of 600 bytes"),
        ({"user_key": "u" * 513}, "user_key has 513 bytes; expected at most 512"),
    ],
)
def test_what_is_out_of_range_is_named(
    client: RecommenderClient, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        client.recommend(["item-1"], 3, **options)
    assert client.recommend(["item-1"], 3).items


def test_a_label_that_is_not_served_is_told(client: RecommenderClient) -> None:
    with pytest.raises(NotFound, match="label 'canary' is not served here; served are stable"):
        client.recommend(["item-1"], 3, label="canary")
    with pytest.raises(NotFound, match=r"label '(x){40}' is not served"):
        client.recommend(["item-1"], 3, label="x" * 5000)
    assert client.recommend(["item-1"], 3, label="stable").items


def test_each_request_of_a_batch_has_its_own_end(client: RecommenderClient) -> None:
    good = Request(history=["item-1"], k=3)
    ends = client.recommend_batch(
        [
            good,
            Request(history=[""], k=3),
            Request(history=["item-1"], k=0),
            good,
            Request(history=["item-1"], label="canary"),
        ]
    )
    alone = ids_of(client.recommend(["item-1"], 3))
    assert ids_of(ends[0]) == ids_of(ends[3]) == alone
    assert [type(end) for end in ends[1:3]] == [InvalidRequest, InvalidRequest]
    assert str(ends[2]) == "k is 0; expected 1 to 1000"
    assert isinstance(ends[4], NotFound)


@pytest.mark.parametrize("count", [0, 1025])
def test_a_batch_holds_1_to_1024_requests(client: RecommenderClient, count: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"requests has {count}; expected 1 to 1024"):
        client.recommend_batch([Request(history=["item-1"], k=1)] * count)


def test_a_batch_of_1024_rides_in_batches(client: RecommenderClient) -> None:
    ends = client.recommend_batch([Request(history=["item-1"], k=1)] * 1024)
    sizes = [end.batch_size for end in ends if isinstance(end, Recommendations)]
    assert len(sizes) == 1024
    assert 8 <= max(sizes) <= 64  # an eighth at least, all of it when nobody else has asked


def test_a_stream_answers_each_message_by_itself(server: Served, shop: Shop) -> None:
    messages = [
        StreamRequest(key="a", request=Request(history=["item-1"], k=3)),
        StreamRequest(key="b", request=Request(history=["item-1"], k=0)),
        StreamRequest(key="c" * 513, request=Request(history=["item-1"], k=3)),
        StreamRequest(key="a", request=Request(history=[], k=3), deadline_ms=60_000),
    ]

    async def main(opened: AsyncRecommenderClient) -> None:
        found = [answer async for answer in opened.recommend_stream(messages)]
        of_a = [answer.result for answer in found if answer.key == "a"]
        assert [end.fallback for end in of_a if isinstance(end, Recommendations)] == [
            None,
            "popularity",
        ]
        [bad] = [str(answer.result) for answer in found if answer.key == "b"]
        assert bad == "k is 0; expected 1 to 1000"
        [long] = [answer.result for answer in found if answer.key == "c" * 513]
        assert str(long) == "key has 513 bytes; expected at most 512"

    asked(server.target, main)


def test_the_blocking_client_streams_as_well(client: RecommenderClient) -> None:
    request = Request(history=["item-1"], k=3)
    messages = (StreamRequest(key=str(n), request=request) for n in range(200))
    found = list(client.recommend_stream(messages))
    assert sorted(int(answer.key) for answer in found) == list(range(200))
    assert len({tuple(ids_of(answer.result)) for answer in found}) == 1


def test_a_value_that_cannot_be_sent_ends_a_stream_with_its_own_error(
    server: Served, client: RecommenderClient
) -> None:
    good = StreamRequest(key="a", request=Request(history=["item-1"], k=3))
    bad = StreamRequest(key="b", request=Request(history="item-1", k=3))
    answers = client.recommend_stream([good, bad])
    assert next(answers).key == "a"
    with pytest.raises(InvalidRequest, match="history is the text 'item-1'"):
        next(answers)

    async def main(opened: AsyncRecommenderClient) -> None:
        found: list[StreamAnswer] = []
        with pytest.raises(InvalidRequest, match="history is the text 'item-1'"):
            await collect(opened.recommend_stream([good, bad]), found)
        assert [answer.key for answer in found] == ["a"]

    asked(server.target, main)


async def collect(answers: AsyncIterator[StreamAnswer], found: list[StreamAnswer]) -> None:
    async for answer in answers:
        found.append(answer)


def test_a_message_that_is_none_ends_the_stream(server: Served) -> None:
    async def main() -> None:
        async with grpc.aio.insecure_channel(server.target) as channel:
            method: Any = channel.stream_stream("/mmsr.v1.Recommender/RecommendStream")
            call = method(iter([b"garbage"]), timeout=PATIENCE_S)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call.read()
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        details = refused.value.details() or ""
        assert "7 bytes that are no mmsr.v1.RecommendStreamRequest" in details

    asyncio.run(main())


def test_a_stream_that_is_broken_off_hurts_nobody(client: RecommenderClient) -> None:
    message = StreamRequest(key="a", request=Request(history=["item-1"], k=3))
    for _ in range(20):
        answers = client.recommend_stream(message for _ in range(1000))
        assert next(answers).key == "a"
        answers.close()  # type: ignore[attr-defined]
    assert client.recommend(["item-1"], 3).items


def test_an_idle_stream_does_not_keep_a_server_from_stopping(shop: Shop) -> None:
    async def main(target: str, served: Served) -> list[str]:
        async with AsyncRecommenderClient(target, PATIENCE_S) as opened:
            found, ended = [], asyncio.Event()

            async def messages() -> AsyncIterator[StreamRequest]:
                yield StreamRequest(key="a", request=Request(history=["item-1"], k=3))
                await ended.wait()

            answers = opened.recommend_stream(messages())
            found.append((await anext(answers)).key)
            served.process.terminate()
            with pytest.raises(Unavailable, match="the server is stopping"):
                await anext(answers)
            ended.set()
            return found

    with serving(shop.root, "--grace-s", "600", "--lame-duck-s", "0.1") as served:
        assert asyncio.run(asyncio.wait_for(main(served.target, served), PATIENCE_S)) == ["a"]
        assert served.end() == 0  # long before its time of grace is over


def test_candidates_are_ranked_whether_available_or_not(
    client: RecommenderClient, shop: Shop
) -> None:
    history, candidates = ["item-3", "nobody", "item-8"], [f"item-{n}" for n in range(40)]
    answer = client.score(history, [*candidates, "unknown-1", "item-0", "unknown-1"], user_key="u")
    values = scores_after(shop.twin, history)
    assert [item_id for item_id, _ in answer.items] == ranked(shop.twin, values, range(40))
    assert not all(shop.twin.available_N[:40])
    assert [score for _, score in answer.items] == pytest.approx(
        sorted(values[:40], reverse=True), abs=ATOL
    )
    assert answer.unknown_candidate_ids == ("unknown-1",)
    assert (answer.unknown_ids, answer.batch_size >= 1) == (1, True)
    assert client.score(history, ["unknown-1"]).items == ()


@pytest.mark.parametrize(
    ("history", "candidates", "complaint"),
    [
        (["item-1"], [], "candidate_ids is empty; expected 1 to 1000 ids"),
        (["item-1"], ["item-1"] * 1001, "candidate_ids has 1001 ids; expected at most 1000"),
        (["item-1"], [""], "candidate_ids holds an empty id"),
        (["nobody"], ["item-1"], "history has 1 ids, none of which the catalogue knows"),
    ],
)
def test_a_bad_score_request_is_told_why(
    client: RecommenderClient, history: list[str], candidates: list[str], complaint: str
) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        client.score(history, candidates)


@pytest.mark.parametrize("by_content", [False, True])
def test_neighbours_are_those_of_brute_force(
    client: RecommenderClient, shop: Shop, by_content: bool
) -> None:
    drawn = Drawn(shop.twin, seed=4)
    for item_id in drawn.ids(60):
        filters = drawn.filters()
        answer = client.similar(item_id, 9, by_content=by_content, **vars(filters))
        check_neighbours(shop.twin, item_id, by_content, filters, answer)


def check_neighbours(
    twin: Twin, item_id: str, by_content: bool, filters: Filters, answer: Neighbours
) -> None:
    values = cosines_to(twin, item_id, by_content=by_content)
    wanted = ranked(twin, values, eligible(twin, filters, [item_id]))[:9]
    assert [neighbour for neighbour, _ in answer.items] == wanted
    found = [cosine for _, cosine in answer.items]
    assert found == pytest.approx([values[twin.ids.index(one)] for one in wanted], abs=1e-5)


def test_an_item_that_nobody_knows_has_no_neighbours(client: RecommenderClient) -> None:
    with pytest.raises(NotFound, match="item_id 'nobody': the catalogue has no such item"):
        client.similar("nobody", 3)
    with pytest.raises(InvalidRequest, match="item_id is empty"):
        client.similar("", 3)
    with pytest.raises(InvalidRequest, match="k is 0; expected 1 to 1000"):
        client.similar("item-1", 0)


def test_explanations_say_what_scores_hang_on(client: RecommenderClient, shop: Shop) -> None:
    history = ["item-3", "nobody", "item-8"]
    answer = client.explain(history, ["item-9", "unknown", "item-4"])
    values = scores_after(shop.twin, history)
    wanted = ranked(shop.twin, values, [4, 9])
    assert [item.item_id for item in answer.items] == wanted
    assert answer.history == ("item-3", "item-8")
    assert answer.attention == pytest.approx([0.5, 0.5])
    assert answer.unknown_item_ids == ("unknown",)
    for item in answer.items:
        place = shop.twin.ids.index(item.item_id)
        without = [scores_after(shop.twin, [other])[place] for other in ("item-8", "item-3")]
        assert item.score == pytest.approx(values[place], abs=ATOL)
        changes = [score - values[place] for score in without]
        assert item.history_changes == pytest.approx(changes, abs=ATOL)
        assert item.source_changes == pytest.approx(
            {source: -share * values[place] for source, share in SHARES.items()}, abs=ATOL
        )


SHARES = {"id": 0.5, "position": 0.125, "text": 0.375}


def test_without_items_the_best_are_explained(client: RecommenderClient) -> None:
    best = client.recommend(["item-3"], 10)
    assert [item.item_id for item in client.explain(["item-3"]).items] == ids_of(best)
    assert len(client.explain(["item-3"], k=2).items) == 2
    nothing = client.explain(["item-3"], ["unknown"])
    assert nothing.items == ()
    assert nothing.attention == pytest.approx((1.0,))


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"k": 101}, "k is 101; expected 0 to 100"),
        ({"item_ids": ["item-1"] * 101}, "item_ids has 101 ids; expected at most 100"),
        ({"item_ids": [""]}, "item_ids holds an empty id"),
    ],
)
def test_a_bad_explain_request_is_told_why(
    client: RecommenderClient, how: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        client.explain(["item-1"], **how)
    with pytest.raises(InvalidRequest, match="none of which the catalogue knows"):
        client.explain(["nobody"])


def test_a_deadline_holds_for_a_whole_batch(client: RecommenderClient) -> None:
    """Of the others see test_asides: a small catalogue answers before gRPC's timer rings."""
    many = [Request(history=["item-1"], k=1000)] * 1024
    with pytest.raises(DeadlineTooShort):
        client.recommend_batch(many, deadline_ms=0.01)


def test_bulk_calls_and_single_requests_are_answered_beside_each_other(
    server: Served, shop: Shop
) -> None:
    async def main(opened: AsyncRecommenderClient) -> None:
        many = [Request(history=[f"item-{n % 300}"], k=5) for n in range(1024)]
        bulk = [asyncio.create_task(opened.recommend_batch(many)) for _ in range(3)]
        singles = await asyncio.gather(
            *(opened.recommend([f"item-{n}"], k=5) for n in range(ALONE))
        )
        for call in bulk:
            for number, end in enumerate(await call):
                assert isinstance(end, Recommendations)
                if number < ALONE:
                    assert ids_of(end) == ids_of(singles[number])

    asked(server.target, main)


def test_a_bundle_without_the_parts_says_what_is_missing(tmp_path: Path) -> None:
    shop = publish(tmp_path / "repository")
    without = tmp_path / "without"
    copy_without_content(shop, without)
    with serving(without) as served, RecommenderClient(served.target, PATIENCE_S) as opened:
        opened.wait_until_serving(PATIENCE_S)
        assert opened.similar("item-1", 3).items
        with pytest.raises(FailedPrecondition, match="exported without content vectors"):
            opened.similar("item-1", 3, by_content=True)
        with pytest.raises(FailedPrecondition, match=r"exported without explain\.onnx"):
            opened.explain(["item-1"])


def copy_without_content(shop: Shop, root: Path) -> None:
    repository = Repository(root)
    repository.create()
    with repository.stage() as folder:
        shutil.copytree(shop.folder, folder, dirs_exist_ok=True)
        (folder / "tables" / "content.npy").unlink()
        (folder / "manifest.json").unlink()
        seal(folder, manifest_of(shop.sizes))
        repository.promote(repository.publish(folder), "stable")


def test_a_caller_that_knows_no_proto_can_ask_by_reflection(server: Served) -> None:
    """As grpcurl does: the file from the server, a message by name, a call by path."""
    symbol = "mmsr.v1.Recommender"
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
    with grpc.insecure_channel(server.target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        [response] = stub.ServerReflectionInfo(iter([request]), timeout=PATIENCE_S)
        pool = descriptor_pool.DescriptorPool()
        for raw in response.file_descriptor_response.file_descriptor_proto:
            pool.Add(descriptor_pb2.FileDescriptorProto.FromString(raw))
        method = pool.FindServiceByName(symbol).methods_by_name["Recommend"]
        ask = message_factory.GetMessageClass(method.input_type)(history=["item-1"], k=3)
        call: Any = channel.unary_unary(f"/{method.containing_service.full_name}/{method.name}")
        answer = call(ask.SerializeToString(), timeout=PATIENCE_S)
    assert len(pb.RecommendResponse.FromString(answer).item_ids) == 3


def test_threads_may_share_a_blocking_client(client: RecommenderClient) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: client.recommend([f"item-{n % 10}"], 3), range(200)))
    assert all(ids_of(answers[n]) == ids_of(answers[n % 10]) for n in range(200))


def test_the_client_command_filters(server: Served, shop: Shop) -> None:
    command = [sys.executable, "-m", "mmsr.engine.client", server.target, "--history", "item-3"]
    flags = ["--category", "kind-1", "--without-category", "shade-0", "--unavailable"]
    allowed = ["--allow", "item-1", "--allow", "item-50", "--label", "stable"]
    done = subprocess.run(
        [*command, *flags, *allowed], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    filters = Filters(
        allowed_ids=["item-1", "item-50"],
        include_categories=["kind-1"],
        exclude_categories=["shade-0"],
        only_available=False,
    )
    wanted = ranked(
        shop.twin, scores_after(shop.twin, ["item-3"]), eligible(shop.twin, filters, ["item-3"])
    )
    rows = [line.split()[1] for line in done.stdout.splitlines()[1:-1]]
    assert rows == wanted != []
