from pathlib import Path

import pytest

from mmsr.engine.client_connection import Connection, is_here, open_channel, options_of
from mmsr.engine.errors import ConfigError


@pytest.mark.parametrize(
    ("target", "here"),
    [
        ("127.0.0.1:50051", True),
        ("127.8.0.1:50051", True),
        ("[::1]:50051", True),
        ("localhost:50051", True),
        ("unix:/run/mmsr.sock", True),
        ("dns:///localhost:50051", True),
        ("ipv4:127.0.0.1:50051", True),
        ("10.0.0.7:50051", False),
        ("shop.example:50051", False),
        ("dns:///shop.example:50051", False),
        ("localhost.shop.example:50051", False),
    ],
)
def test_this_machine_is_told_from_others(target: str, here: bool) -> None:
    assert is_here(target) == here


def test_a_token_does_not_leave_the_machine_in_clear_text() -> None:
    connection = Connection(token="the secret")
    assert connection.credentials("127.0.0.1:1") is None
    with pytest.raises(ConfigError, match=r"the token would go to shop\.example:1 in clear"):
        open_channel("shop.example:1", connection)
    trusted = Connection(token="the secret", token_in_clear=True)
    assert trusted.credentials("shop.example:1") is None
    assert Connection(token="the secret", tls=True).credentials("shop.example:1") is not None


def test_a_token_goes_with_every_call_and_into_no_log() -> None:
    connection = Connection(token="the-secret")
    assert connection.metadata() == (("authorization", "Bearer the-secret"),)
    assert "the-secret" not in repr(connection)
    assert Connection().metadata() == ()


def test_a_token_that_no_header_can_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="token holds characters") as refused:
        Connection(token="zwölf\n")
    assert "zw" not in str(refused.value)


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(ConfigError, match="client_certificate without client_key"):
        Connection(client_certificate=Path("a.pem"))
    with pytest.raises(ConfigError, match="client_key without client_certificate"):
        Connection(client_key=Path("a.key"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ca\.pem cannot be read: No such file"):
        Connection(root_certificates=tmp_path / "ca.pem").credentials("shop.example:1")


@pytest.mark.parametrize(
    ("target", "balanced"),
    [
        ("127.0.0.1:50051", False),
        ("recommender:50051", False),
        ("unix:/run/mmsr.sock", False),
        ("dns:///recommender:50051", True),
        ("ipv4:10.0.0.1:50051,10.0.0.2:50051", True),
    ],
)
def test_a_target_that_may_be_several_servers_is_balanced(target: str, balanced: bool) -> None:
    assert ("grpc.service_config" in dict(options_of(target))) == balanced
