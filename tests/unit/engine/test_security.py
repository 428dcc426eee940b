from pathlib import Path

import pytest

from mmsr.engine.config import SecurityConfig, ServeConfig, ServerConfig
from mmsr.engine.errors import ConfigError
from mmsr.engine.security import Security, check_exposure, default_rate, is_loopback
from mmsr.engine.tokens import entry_of, new_token

LOOPBACK = ServerConfig(repository=Path("r"))
EVERYWHERE = ServerConfig(repository=Path("r"), host="0.0.0.0")
TLS = SecurityConfig(tls_cert=Path("c"), tls_key=Path("k"))
TOKENS = SecurityConfig(tokens=Path("t"))
BOTH = SecurityConfig(tls_cert=Path("c"), tls_key=Path("k"), tokens=Path("t"))
MUTUAL = SecurityConfig(tls_cert=Path("c"), tls_key=Path("k"), tls_client_ca=Path("a"))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_only_this_machine_reaches_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "no-such-host.invalid"])
def test_others_may_reach_everything_else(host: str) -> None:
    assert not is_loopback(host)


def test_on_loopback_nothing_need_be_protected() -> None:
    check_exposure(ServeConfig(server=LOOPBACK))


@pytest.mark.parametrize("security", [BOTH, MUTUAL, SecurityConfig(insecure=True)])
def test_beyond_loopback_goes_what_is_protected_or_meant(security: SecurityConfig) -> None:
    check_exposure(ServeConfig(server=EVERYWHERE, security=security))


@pytest.mark.parametrize(
    ("security", "complaint"),
    [
        (SecurityConfig(), "nothing is encrypted .* and anybody may call"),
        (TLS, "anybody may call .give --tokens"),
        (TOKENS, "nothing is encrypted .give --tls-cert"),
    ],
)
def test_beyond_loopback_the_rest_is_an_error(security: SecurityConfig, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        check_exposure(ServeConfig(server=EVERYWHERE, security=security))


def test_the_admin_port_counts_too() -> None:
    server = ServerConfig(repository=Path("r"), admin_host="0.0.0.0", admin_port=0)
    with pytest.raises(ConfigError, match=r"host 0\.0\.0\.0 is reachable"):
        check_exposure(ServeConfig(server=server))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"tls_cert": Path("c")}, "belong together"),
        ({"tls_key": Path("k")}, "belong together"),
        ({"tls_client_ca": Path("a")}, "tls_client_ca needs"),
        ({"rate_limit": 1.0}, "rate_limit needs tokens"),
        ({"rate_limit": 0.0, "tokens": Path("t")}, "at least 0.001"),
        ({"rate_burst": 2.0}, "rate_burst needs rate_limit"),
        ({"calls": 0}, "calls 0; expected at least 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        SecurityConfig(**settings)  # type: ignore[arg-type]


def test_a_burst_is_a_second_of_the_rate_unless_said() -> None:
    tokens = Path("t")
    assert default_rate(SecurityConfig(tokens=tokens, rate_limit=50)) == (50, 50)
    assert default_rate(SecurityConfig(tokens=tokens, rate_limit=0.1)) == (0.1, 1)
    assert default_rate(SecurityConfig(tokens=tokens, rate_limit=50, rate_burst=7)) == (50, 7)


def test_it_says_in_words_what_a_caller_must_have(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text("".join(entry_of("shop", ["recommend"], new_token()) for _ in range(2)))
    security = Security(SecurityConfig(tokens=path), lambda: 0.0)
    assert security.open() is None
    assert security.describe() == "not encrypted, tokens of 1 clients"
    assert Security(SecurityConfig(), lambda: 0.0).describe() == "not encrypted, no tokens"
    assert Security(MUTUAL, lambda: 0.0).describe() == "TLS, clients with a certificate, no tokens"
