"""Both clients against a real server that does as it is told."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.certificates import Authority
from support.scripted_server import Script, Status, scripted

from mmsr.engine.client import (
    AsyncCatalogueClient,
    AsyncRecommenderClient,
    CatalogueClient,
    Connection,
    Item,
    RecommenderClient,
    Retries,
)
from mmsr.engine.errors import (
    EngineError,
    Exhausted,
    InvalidRequest,
    MessageTooLarge,
    Overloaded,
    Unavailable,
)

PATIENCE_S = 60.0
AT_ONCE = Retries(first_wait_ms=0)
GONE = Status(grpc.StatusCode.UNAVAILABLE)
FULL = Status(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_ms=1)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def target(script: Script) -> Iterator[str]:
    with scripted(script) as address:
        yield address


def asked(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def blocking(target: str, retries: Retries = AT_ONCE, history: Sequence[str] = ("a",)) -> object:
    with RecommenderClient(target, PATIENCE_S, retries=retries) as client:
        return client.recommend(history, 1)


def waiting(target: str, retries: Retries = AT_ONCE, history: Sequence[str] = ("a",)) -> object:
    async def main() -> object:
        async with AsyncRecommenderClient(target, PATIENCE_S, retries=retries) as client:
            return await client.recommend(history, 1)

    return asyncio.run(main())


ASK = pytest.mark.parametrize("ask", [blocking, waiting])


@ASK
def test_what_another_moment_may_answer_is_sent_again(
    ask: Callable[..., object], script: Script, target: str
) -> None:
    script.ends = deque([GONE, FULL, GONE])
    ask(target)
    assert len(script.metadata) == 4


@ASK
@pytest.mark.parametrize(("end", "error"), [(GONE, Unavailable), (FULL, Overloaded)])
def test_the_last_error_is_the_answer(
    ask: Callable[..., object], script: Script, target: str, end: Status, error: type[EngineError]
) -> None:
    script.ends = deque([end] * 10)
    with pytest.raises(error):
        ask(target)
    assert len(script.metadata) == AT_ONCE.tries


@ASK
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Exhausted),  # it says no time to come back
        (grpc.StatusCode.UNAUTHENTICATED, EngineError),
    ],
)
def test_other_errors_are_told_at_once(
    ask: Callable[..., object],
    script: Script,
    target: str,
    code: grpc.StatusCode,
    error: type[EngineError],
) -> None:
    script.ends = deque([Status(code)])
    with pytest.raises(error):
        ask(target)
    assert len(script.metadata) == 1


@ASK
def test_what_a_server_does_not_read_is_told_as_a_message_that_is_too_long(
    ask: Callable[..., object], script: Script, target: str
) -> None:
    with pytest.raises(MessageTooLarge, match="larger than max"):
        ask(target, history=["x" * 5_000_000])
    assert not script.metadata


def test_the_servers_hint_is_waited_for(script: Script, target: str) -> None:
    script.ends = deque([Status(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_ms=40)])
    pauses: list[float] = []
    with RecommenderClient(target, PATIENCE_S, pause=pauses.append) as client:
        client.recommend(["a"], 1)
    [pause_s] = pauses
    assert 0.040 <= pause_s <= 0.050


def test_a_token_is_sent_with_every_call(script: Script, target: str) -> None:
    connection = Connection(token="s3cret")

    async def main() -> None:
        async with AsyncCatalogueClient(target, connection=connection) as client:
            await client.upsert([Item(item_id="a")])
            assert [p.items async for p in client.upsert_stream([Item(item_id="a")])] == [1]

    with RecommenderClient(target, connection=connection) as client:
        client.recommend(["a"], 1)
    asked(main)
    assert [m["authorization"] for m in script.metadata] == ["Bearer s3cret"] * 3


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_is_spoken_and_both_sides_are_proven(
    script: Script, tmp_path: Path, mutual: bool
) -> None:
    authority = Authority("the shop")
    server = authority.issue("server")
    roots, chain, key = (tmp_path / name for name in ("ca.pem", "client.pem", "client.key"))
    roots.write_bytes(authority.certificate)
    authority.issue("client").write(chain, key)
    credentials = grpc.ssl_server_credentials(
        [(server.key, server.certificate)],
        authority.certificate if mutual else None,
        require_client_auth=mutual,
    )
    plain = Connection(root_certificates=roots)
    proven = Connection(
        root_certificates=roots, client_certificate=chain, client_key=key, token="s3cret"
    )

    async def main(target: str) -> None:
        async with AsyncRecommenderClient(target, PATIENCE_S, connection=proven) as client:
            assert (await client.recommend(["a"], 1)).items

    with scripted(script, credentials) as target:
        asked(lambda: main(target))
        with RecommenderClient(target, PATIENCE_S, connection=proven) as client:
            assert client.recommend(["a"], 1).items
        for other in (Connection(tls=True), *((plain,) if mutual else ())):
            with (
                RecommenderClient(target, 5, connection=other, retries=Retries(tries=1)) as client,
                pytest.raises(Unavailable),
            ):
                client.recommend(["a"], 1)
    assert [call["authorization"] for call in script.metadata] == ["Bearer s3cret"] * 2


def test_the_catalogue_is_written_and_read(script: Script, target: str) -> None:
    with CatalogueClient(target, PATIENCE_S) as client:
        chair = Item(item_id="a", title="A chair", categories=["chairs"], popularity=3)
        first = client.upsert([chair, Item(item_id="b")])
        assert (first.added_ids, first.replaced_ids) == (("a", "b"), ())
        assert client.upsert([chair]).replaced_ids == ("a",)
        assert client.set_availability(["b", "x"], False).unknown_ids == ("x",)
        found = client.get(["b", "x", "a"])
        assert [(item.item_id, item.available) for item in found.items] == [
            ("b", False),
            ("a", True),
        ]
        assert found.items[1].title == "A chair"
        assert found.items[1].categories == ("chairs",)
        assert found.unknown_ids == ("x",)
        assert client.delete(["a", "x"]).unknown_ids == ("x",)
        assert client.page().items[0].item_id == "b"
    assert list(script.items) == ["b"]


def test_all_items_are_listed_page_by_page(script: Script, target: str) -> None:
    items = [Item(item_id=f"{n:03}") for n in range(25)]
    wanted = [item.item_id for item in items]

    async def main() -> None:
        async with AsyncCatalogueClient(target, PATIENCE_S) as client:
            await client.upsert(items)
            assert [item.item_id async for item in client.items(page_size=10)] == wanted

    asked(main)
    with CatalogueClient(target, PATIENCE_S) as client:
        assert [item.item_id for item in client.items(page_size=10)] == wanted
    assert len(script.metadata) == 1 + 3 + 3


def test_many_items_are_streamed(script: Script, target: str) -> None:
    items = [Item(item_id=str(n)) for n in range(2500)]

    async def one_by_one() -> AsyncIterator[Item]:
        for item in items[:5]:
            yield item

    async def main() -> None:
        async with AsyncCatalogueClient(target, PATIENCE_S) as client:
            assert [p.items async for p in client.upsert_stream(items)] == [1000, 2000, 2500]
            assert [p.items async for p in client.upsert_stream(one_by_one())] == [1, 2, 3, 4, 5]

    asked(main)
    with CatalogueClient(target, PATIENCE_S) as client:
        assert [p.items for p in client.upsert_stream(iter(items))] == [1000, 2000, 2500]
    assert len(script.items) == 2500


def test_an_item_that_cannot_be_sent_ends_the_stream_with_its_own_error(target: str) -> None:
    items = [Item(item_id="a", image=b"x" * (2 << 20)), Item(item_id="\udcff")]
    with CatalogueClient(target, PATIENCE_S) as client:
        answers = client.upsert_stream(items)
        with pytest.raises(InvalidRequest, match="cannot be encoded"):
            list(answers)


def test_a_stream_that_the_server_ends_is_an_engines_error(script: Script, target: str) -> None:
    script.ends = deque([GONE, GONE])

    async def main() -> None:
        async with AsyncCatalogueClient(target, PATIENCE_S) as client:
            with pytest.raises(Unavailable):
                await anext(client.upsert_stream([Item(item_id="a")]))

    asked(main)
    with CatalogueClient(target, PATIENCE_S) as client, pytest.raises(Unavailable):
        next(client.upsert_stream([Item(item_id="a")]))
    assert len(script.metadata) == 2  # a stream is never sent again
