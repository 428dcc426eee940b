"""TLS, client certificates and tokens over real sockets, and what is refused."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.certificates import Authority, Pair
from support.in_process import PATIENCE_S, asking, call, plain, refused, running
from support.tiny_bundle import Shop, publish

from mmsr.engine.config import SecurityConfig
from mmsr.engine.errors import ConfigError, Unavailable
from mmsr.engine.health_probe import Tls, check_serving
from mmsr.engine.server import Server
from mmsr.engine.tokens import entry_of, new_token
from mmsr.v1 import recommender_pb2 as pb

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish(tmp_path_factory.mktemp("shop") / "repository")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("shop's authority")


@pytest.fixture(scope="module")
def stranger() -> Authority:
    return Authority("somebody else's authority")


class Files:
    """The server's certificate, key and client authority on disk."""

    def __init__(self, folder: Path) -> None:
        self.chain, self.key, self.client_ca = (folder / n for n in ("tls.crt", "tls.key", "ca"))
        self._age = 0

    def write(self, pair: Pair) -> None:
        pair.write(self.chain, self.key)
        self._age += 1
        for path in (self.chain, self.key):  # two writes within one tick of the file system
            os.utime(path, ns=(self._age, self._age))

    @property
    def tls(self) -> SecurityConfig:
        return SecurityConfig(tls_cert=self.chain, tls_key=self.key)

    @property
    def mutual(self) -> SecurityConfig:
        return SecurityConfig(tls_cert=self.chain, tls_key=self.key, tls_client_ca=self.client_ca)


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> Files:
    found = Files(tmp_path)
    found.write(authority.issue("server"))
    found.client_ca.write_bytes(authority.certificate)
    return found


@asynccontextmanager
async def encrypted(
    server: Server, authority: Authority, own: Pair | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    key, chain = (None, None) if own is None else (own.key, own.certificate)
    credentials = grpc.ssl_channel_credentials(authority.certificate, key, chain)
    # Channels of one process share connections unless they differ; each test is to shake hands.
    options = [("grpc.use_local_subchannel_pool", 1)]
    target = f"127.0.0.1:{server.port}"
    async with grpc.aio.secure_channel(target, credentials, options) as channel:
        yield channel


async def answered(server: Server, authority: Authority, own: Pair | None = None) -> bool:
    """Tell whether a new connection is answered; if not, it must have failed at the handshake."""
    async with encrypted(server, authority, own) as channel:
        try:
            response = pb.RecommendResponse.FromString(await call(channel, asking("item-1")))
        except grpc.aio.AioRpcError as error:
            if error.code() != UNAVAILABLE:
                raise
            return False
        assert len(response.item_ids) == 3
        return True


def run(main: object) -> None:
    asyncio.run(asyncio.wait_for(main, PATIENCE_S))  # type: ignore[arg-type]


def test_a_client_that_trusts_the_authority_is_answered_and_no_other(
    shop: Shop, files: Files, authority: Authority, stranger: Authority
) -> None:
    async def main() -> None:
        async with running(shop, security=files.tls) as server:
            assert await answered(server, authority)
            assert not await answered(server, stranger)
            async with plain(server) as channel:  # without TLS
                assert (await refused(channel, asking("item-1"))).code() == UNAVAILABLE

    run(main())


@pytest.mark.parametrize("wrong", ["expired", "of another host"])
def test_a_certificate_that_is_not_the_servers_own_is_refused_by_clients(
    shop: Shop, files: Files, authority: Authority, wrong: str
) -> None:
    how = {"expired": {"days_left": -1}, "of another host": {"host": "192.0.2.1"}}[wrong]
    files.write(authority.issue("server", **how))  # type: ignore[arg-type]

    async def main() -> None:
        async with running(shop, security=files.tls) as server:
            assert not await answered(server, authority)

    run(main())


def test_with_a_client_authority_only_its_certificates_get_in(
    shop: Shop, files: Files, authority: Authority, stranger: Authority
) -> None:
    async def main() -> None:
        async with running(shop, security=files.mutual) as server:
            assert await answered(server, authority, own=authority.issue("client"))
            assert not await answered(server, authority)
            assert not await answered(server, authority, own=stranger.issue("client"))
            expired = authority.issue("client", days_left=-1)
            assert not await answered(server, authority, own=expired)

    run(main())


def test_a_replaced_certificate_is_shown_without_a_restart_and_breaks_no_connection(
    shop: Shop, files: Files, authority: Authority, stranger: Authority
) -> None:
    async def main() -> None:
        async with running(shop, security=files.tls) as server:
            async with encrypted(server, authority) as old:
                await call(old, asking("item-1"))
                files.write(stranger.issue("server"))
                assert await answered(server, stranger)
                assert not await answered(server, authority)
                await call(old, asking("item-1"))
            certificates = server.security.certificates
            assert certificates is not None
            assert (certificates.reloads, certificates.failures) == (1, 0)

    run(main())


def test_a_key_that_does_not_fit_leaves_the_old_certificate_in_use(
    shop: Shop, files: Files, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with running(shop, security=files.tls) as server:
            files.key.write_bytes(authority.issue("other").key)  # the first half of a replacement
            assert await answered(server, authority)
            assert await answered(server, authority)
            certificates = server.security.certificates
            assert certificates is not None
            assert (certificates.reloads, certificates.failures) == (0, 1)

    run(main())
    assert caplog.text.count("the certificates before stay in use") == 1


def test_a_new_client_authority_holds_for_new_connections(
    shop: Shop, files: Files, authority: Authority, stranger: Authority
) -> None:
    async def main() -> None:
        async with running(shop, security=files.mutual) as server:
            own = authority.issue("client")
            assert await answered(server, authority, own=own)
            files.client_ca.write_bytes(stranger.certificate)
            assert not await answered(server, authority, own=own)
            assert await answered(server, authority, own=stranger.issue("client"))

    run(main())


@pytest.mark.parametrize("wrong", ["key of another", "no PEM", "not there", "no authority"])
def test_files_that_do_not_fit_are_an_error_at_the_start(
    shop: Shop, files: Files, authority: Authority, wrong: str
) -> None:
    if wrong == "key of another":
        files.key.write_bytes(authority.issue("other").key)
    elif wrong == "no PEM":
        files.chain.write_text("certificate")
    elif wrong == "not there":
        files.key.unlink()
    else:
        files.client_ca.write_text("authority")
    complaint = {
        "key of another": "do not fit",
        "no PEM": "do not fit or are no unencrypted PEM",
        "not there": "tls.key cannot be read: No such file",
        "no authority": "holds no PEM certificate",
    }[wrong]

    async def main() -> None:
        async with running(shop, security=files.mutual, load=False):
            raise AssertionError("it listens")

    with pytest.raises(ConfigError, match=complaint):
        run(main())


def test_a_revoked_token_is_refused_and_the_others_stay(shop: Shop, tmp_path: Path) -> None:
    path, kept, gone = tmp_path / "tokens.toml", new_token(), new_token()
    entry = entry_of("shop", ["recommend"], kept)
    path.write_text(entry + entry_of("leaver", ["recommend"], gone))

    async def main() -> None:
        security = SecurityConfig(tokens=path)
        async with running(shop, security=security) as server, plain(server) as channel:
            for token in (kept, gone):
                await call(channel, asking("item-1"), {"authorization": f"Bearer {token}"})
            path.write_text(entry)
            tokens = server.security.tokens
            assert tokens is not None
            tokens.look_again()
            await call(channel, asking("item-1"), {"authorization": f"Bearer {kept}"})
            error = await refused(channel, asking("x"), {"authorization": f"Bearer {gone}"})
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED
            assert gone not in str(error.details())

    run(main())


def test_a_token_that_leaves_the_file_ends_open_streams_and_new_calls_by_itself(
    shop: Shop, files: Files, authority: Authority, tmp_path: Path
) -> None:
    path, kept, gone = tmp_path / "tokens.toml", new_token(), new_token()
    entry = entry_of("shop", ["recommend"], kept)
    path.write_text(entry + entry_of("leaver", ["recommend"], gone))
    security = replace(files.tls, tokens=path)
    message = pb.RecommendStreamRequest(key="a", request=asking("item-1")).SerializeToString()

    async def main() -> None:
        async with running(shop, security=security) as server, encrypted(server, authority) as way:
            ask: Any = way.stream_stream("/mmsr.v1.Recommender/RecommendStream")
            stream = ask(metadata=(("authorization", f"Bearer {gone}"),), timeout=PATIENCE_S)
            await stream.write(message)
            assert pb.RecommendStreamResponse.FromString(await stream.read()).key == "a"
            await stream.write(message)
            path.write_text(entry)  # no restart, no signal
            assert await status_at_last(stream, message) == grpc.StatusCode.UNAUTHENTICATED
            error = await refused(way, asking("item-1"), {"authorization": f"Bearer {gone}"})
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED
            await call(way, asking("item-1"), {"authorization": f"Bearer {kept}"})

    run(main())


async def status_at_last(stream: Any, message: bytes) -> grpc.StatusCode:
    """Ask on a stream until it ends; return how."""
    try:
        while await stream.read() is not grpc.aio.EOF:
            await stream.write(message)
    except grpc.aio.AioRpcError as error:
        return error.code()
    except asyncio.InvalidStateError:  # it ended while the message was written
        pass
    return await stream.code()  # type: ignore[no-any-return]


def test_the_health_probe_speaks_tls(
    shop: Shop, files: Files, authority: Authority, tmp_path: Path
) -> None:
    trusted, own = tmp_path / "trusted", authority.issue("probe")
    trusted.write_bytes(authority.certificate)
    own.write(tmp_path / "own.crt", tmp_path / "own.key")
    tls = Tls(ca=trusted, cert=tmp_path / "own.crt", key=tmp_path / "own.key")

    async def main() -> None:
        async with running(shop, security=files.mutual) as server:
            target = f"127.0.0.1:{server.port}"
            await asyncio.to_thread(check_serving, target, "", PATIENCE_S, tls)
            with pytest.raises(Unavailable, match="UNAVAILABLE"):
                await asyncio.to_thread(check_serving, target, "", PATIENCE_S, Tls(ca=trusted))

    run(main())
