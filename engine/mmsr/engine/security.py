"""What protects a server, put together from its settings; and what is exposed how, in words."""

import ipaddress
import logging
import socket
from collections.abc import Callable, Iterator

import grpc

from mmsr.engine.config import SecurityConfig, ServeConfig
from mmsr.engine.errors import ConfigError
from mmsr.engine.gatekeeper import TokenGate
from mmsr.engine.limits import ClientLimits, Rate
from mmsr.engine.tls import Certificates
from mmsr.engine.tokens import TokenFile

log = logging.getLogger(__name__)


class Security:
    """The tokens and certificates of a server; either may be off."""

    def __init__(self, config: SecurityConfig, clock: Callable[[], float]) -> None:
        self.tokens: TokenFile | None = None
        self.certificates: Certificates | None = None
        self.gatekeeper: TokenGate | None = None
        if config.tokens is not None:
            self.tokens = TokenFile(config.tokens, clock)
            limits = ClientLimits(default_rate(config))
            self.gatekeeper = TokenGate(self.tokens, limits, clock)
        if config.tls_cert is not None and config.tls_key is not None:
            self.certificates = Certificates(config.tls_cert, config.tls_key, config.tls_client_ca)

    def open(self) -> grpc.ServerCredentials | None:
        """Read the files; return what ports are opened with, None without TLS.

        `ConfigError` says which file is wrong.
        """
        if self.tokens is not None:
            self.tokens.load()
        return None if self.certificates is None else self.certificates.credentials()

    @property
    def watched(self) -> dict[str, TokenFile | Certificates]:
        """What is read anew when it changes."""
        found = {"tokens": self.tokens, "certificates": self.certificates}
        return {name: files for name, files in found.items() if files is not None}

    def describe(self) -> str:
        """Return in words what a caller must have."""
        way = "not encrypted"
        if self.certificates is not None:
            shown = self.certificates.asks_clients
            way = "TLS, clients with a certificate" if shown else "TLS"
        if self.tokens is None:
            return f"{way}, no tokens"
        clients = {token.client for token in self.tokens.tokens}
        return f"{way}, tokens of {len(clients)} clients"


def default_rate(config: SecurityConfig) -> Rate | None:
    """Return the rate of clients without one of their own."""
    if config.rate_limit is None:
        return None
    return Rate(config.rate_limit, config.rate_burst or max(1.0, config.rate_limit))


def check_exposure(config: ServeConfig) -> None:
    """Raise `ConfigError` if strangers could call or listen and nobody said that they may."""
    security = config.security
    if config.observe.channelz and config.server.admin_port is None and security.tokens is None:
        raise ConfigError("--channelz is for operators alone: give --admin-port or --tokens")
    if security.insecure:
        return
    missing = list(_missing(security))
    for host in hosts_of(config):
        if missing and not is_loopback(host):
            raise ConfigError(
                f"host {host} is reachable from other machines, but {' and '.join(missing)}; or "
                "say --insecure, if something else protects it"
            )


def _missing(security: SecurityConfig) -> Iterator[str]:
    if security.tls_cert is None:
        yield "nothing is encrypted (give --tls-cert and --tls-key)"
    if security.tokens is None and security.tls_client_ca is None:
        yield "anybody may call (give --tokens, or --tls-client-ca)"


def hosts_of(config: ServeConfig) -> list[str]:
    """Return the addresses on which gRPC listens."""
    hosts = [config.server.host]
    if config.server.admin_port is not None:
        hosts.append(config.server.admin_host)
    return hosts


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address; False where nobody knows it."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)
