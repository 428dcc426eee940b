"""What nobody may read anywhere: tokens, their hashes and private keys, whatever goes wrong."""

import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.certificates import Authority
from support.serving import Served, start
from support.tiny_bundle import publish

from mmsr.bundle.errors import MmsrError
from mmsr.engine.admin_client import AdminClient
from mmsr.engine.client import RecommenderClient
from mmsr.engine.client_connection import Connection
from mmsr.engine.errors import EngineError, Unauthenticated
from mmsr.engine.tokens import digest_of, entry_of, new_token
from mmsr.v1 import recommender_pb2 as pb

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "DEBUG")
RECOMMEND = "/mmsr.v1.Recommender/Recommend"
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Guarded:
    """A server with TLS and tokens that says all it can, and who may call it."""

    server: Served
    folder: Path
    shop: str  # may ask
    operator: str  # may do everything

    def connection(self, token: str | None) -> Connection:
        return Connection(root_certificates=self.folder / "ca.crt", token=token)

    def secrets(self, *more: str) -> list[str]:
        """Return what must not be told: tokens, hashes of them, each line of the keys."""
        tokens = [self.shop, self.operator, *more]
        keys = [path.read_text().splitlines() for path in self.folder.glob("*.key")]
        lines = [line for key in keys for line in key if not line.startswith("--")]
        return [*tokens, *(digest_of(token).hex() for token in tokens), *lines]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    shop = publish(folder / "repository")
    authority, tokens = Authority("shop's authority"), [new_token(), new_token()]
    (folder / "ca.crt").write_bytes(authority.certificate)
    authority.issue("server").write(folder / "tls.crt", folder / "tls.key")
    authority.issue("other").write(folder / "other.crt", folder / "other.key")
    entries = entry_of("shop", ["recommend"], tokens[0])
    entries += entry_of("operator", ["recommend", "catalogue", "admin"], tokens[1])
    (folder / "tokens.toml").write_text(entries)
    flags = ["--tls-cert", "tls.crt", "--tls-key", "tls.key", "--tokens", "tokens.toml"]
    flags = [str(folder / flag) if "." in flag else flag for flag in flags]
    observed = ("--log-level", "DEBUG", "--log-requests", "--metrics-port", "0")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GRPC_VERBOSITY", "DEBUG")  # what gRPC itself says, too
        server = start(shop.root, *flags, *observed)
    try:
        yield Guarded(server, folder, tokens[0], tokens[1])
    finally:
        server.process.kill()
        server.end()


def told_by(call: object) -> str:
    """Return all that a call's error says."""
    try:
        call()  # type: ignore[operator]
    except (grpc.RpcError, MmsrError, ValueError) as error:
        more = [getattr(error, name, None) for name in ("debug_error_string", "trailing_metadata")]
        said = [str(each()) for each in more if callable(each)]
        return " ".join([str(error), repr(error), *said])
    raise AssertionError("it was answered")


def test_no_refusal_repeats_what_it_was_shown(guarded: Guarded) -> None:
    stranger, target = new_token(), guarded.server.target
    with RecommenderClient(target, connection=guarded.connection(stranger)) as client:
        said = told_by(lambda: client.recommend(["item-1"], k=1))
        with pytest.raises(Unauthenticated):
            client.recommend(["item-1"], k=1)
    with AdminClient(target, guarded.connection(guarded.shop)) as admin:
        said += told_by(admin.status)
        with pytest.raises(EngineError, match="needs the scope admin"):
            admin.status()
    root = (guarded.folder / "ca.crt").read_bytes()
    request = pb.RecommendRequest(history=["item-1"], k=1).SerializeToString()
    with grpc.secure_channel(target, grpc.ssl_channel_credentials(root)) as channel:
        ask: Any = channel.unary_unary(RECOMMEND)
        for way in ("Basic {}", "bearer  {}x", "{}", "Bearer {0} {0}", "Token {}"):
            pairs = (("authorization", way.format(guarded.operator)), ("x-request-id", "r-1"))
            said += told_by(lambda pairs=pairs: ask(request, metadata=pairs, timeout=PATIENCE_S))
    assert [secret for secret in guarded.secrets(stranger) if secret in said] == []
    assert "UNAUTHENTICATED" in said


def test_no_line_at_any_level_and_no_status_shows_one(guarded: Guarded) -> None:
    target = guarded.server.target
    said = ""
    with AdminClient(target, guarded.connection(guarded.operator)) as admin:
        for level in LEVELS:
            admin.set_log_level(level)
            with RecommenderClient(target, connection=guarded.connection(guarded.shop)) as client:
                assert client.recommend(["item-1"], k=1).items
            said += repr(admin.status())
    url = guarded.server.wait_for(r"(http://127\.0\.0\.1:\d+/metrics)")[1]
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        said += answer.read().decode()
    assert "operator" in guarded.server.log  # the client's name is there
    everything = said + guarded.server.log
    assert [secret for secret in guarded.secrets() if secret in everything] == []


def test_files_that_went_wrong_are_complained_of_by_their_names(guarded: Guarded) -> None:
    """Last: the server goes on with what it has, the files stay as they are."""
    misplaced, server = new_token(), guarded.server
    tokens, key = guarded.folder / "tokens.toml", guarded.folder / "tls.key"
    connection = guarded.connection(guarded.shop)
    for text in (f'[[token]]\nclient = "{misplaced}"\n', f"[[token]]\n{misplaced}\n"):
        seen = len(server.lines)
        replaced(tokens, text.encode())
        with RecommenderClient(server.target, connection=connection) as client:
            while "tokens before stay in force" not in "\n".join(server.lines[seen:]):
                assert client.recommend(["item-1"], k=1).items
    replaced(key, (guarded.folder / "other.key").read_bytes())
    with RecommenderClient(server.target, connection=connection) as client:
        client.recommend(["item-1"], k=1)
    server.wait_for("the certificates before stay in use")
    assert [secret for secret in guarded.secrets(misplaced) if secret in server.log] == []


def replaced(path: Path, content: bytes) -> None:
    """Put other content in the place of a file, as one step."""
    fresh = path.with_name("fresh")
    fresh.write_bytes(content)
    os.replace(fresh, path)
