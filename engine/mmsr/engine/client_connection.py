"""Where a client connects to and as whom: TLS, token, channels. Asks nothing."""

import ipaddress
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from mmsr.engine.errors import ConfigError, EngineError, from_status
from mmsr.engine.target import GRPC_SCHEMES
from mmsr.engine.wire import REASON, RETRY_AFTER

# Calls go to all addresses of a target in turns, and to none whose health says that it stops: it
# says so before it refuses. A server without a health service counts as well.
SERVICE_CONFIG = json.dumps(
    {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
)
# A server that has just been started is found at once, not at gRPC's first retry after a second.
OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
BALANCED_SCHEMES = frozenset({"dns", "ipv4", "ipv6"})
UNHEALTHY = "backend unhealthy"  # ends what gRPC says when no server of the target serves
BALANCED = [("grpc.service_config", SERVICE_CONFIG), *OPTIONS]


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How a server is spoken to. Without any of it: in clear text, as nobody in particular."""

    tls: bool = False  # implied by each of the files
    root_certificates: Path | None = None  # PEM; None: those that gRPC brings
    client_certificate: Path | None = None  # PEM, with `client_key`: mTLS
    client_key: Path | None = None  # PEM
    token: str | None = field(default=None, repr=False)  # sent as `authorization: Bearer ...`
    # Without TLS a token goes to servers of this machine alone, unless this is on.
    token_in_clear: bool = False

    def __post_init__(self) -> None:
        if (self.client_certificate is None) != (self.client_key is None):
            given, missing = "client_certificate", "client_key"
            if self.client_certificate is None:
                given, missing = missing, given
            raise ConfigError(f"{given} without {missing}; expected both or none")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise ConfigError("token holds characters that no header can; expected ASCII")

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken."""
        files = (self.root_certificates, self.client_certificate)
        return self.tls or any(path is not None for path in files)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what goes with every call."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def credentials(self, target: str) -> grpc.ChannelCredentials | None:
        """Return what a channel to `target` is opened with; None: clear text.

        `ConfigError`: a file cannot be read, or the token would go to another machine in clear.
        """
        if self.encrypted:
            return grpc.ssl_channel_credentials(
                _read(self.root_certificates),
                _read(self.client_key),
                _read(self.client_certificate),
            )
        if self.token is not None and not (self.token_in_clear or is_here(target)):
            raise ConfigError(
                f"the token would go to {target} in clear text; set tls, or token_in_clear if the "
                "network is trusted"
            )
        return None


def open_channel(target: str, connection: Connection, *, balanced: bool = True) -> grpc.Channel:
    """Open a channel for blocking calls; it connects when it is first used.

    `balanced`: as `options_of`; an operator's calls go to one server, whatever its health.
    """
    credentials = connection.credentials(target)
    options = options_of(target) if balanced else OPTIONS
    if credentials is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, credentials, options=options)


def open_aio_channel(target: str, connection: Connection) -> grpc.aio.Channel:
    """Open a channel for asyncio; it connects when it is first used."""
    credentials = connection.credentials(target)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options_of(target))
    return grpc.aio.secure_channel(target, credentials, options=options_of(target))


def options_of(target: str) -> list[tuple[str, int | str]]:
    """Return how a target is asked: one that may have several addresses is balanced.

    A single HOST:PORT is asked as long as it answers: there is no other one to go to.
    """
    return BALANCED if target.partition(":")[0] in BALANCED_SCHEMES else OPTIONS


def is_here(target: str) -> bool:
    """Tell whether a target is surely this machine."""
    scheme, _, rest = target.partition(":")
    if scheme in ("unix", "unix-abstract"):
        return True
    if scheme in GRPC_SCHEMES:
        target = rest.rpartition("/")[2]
    host = target.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def typed(error: Any) -> EngineError:
    """Translate gRPC's error, which is a call as well: code, details, trailing metadata."""
    metadata = dict(iter(error.trailing_metadata() or ()))  # older releases: no mapping to copy
    retry = str(metadata.get(RETRY_AFTER, ""))
    retry_ms = int(retry) if retry.isascii() and retry.isdigit() else None
    reason = str(metadata.get(REASON, ""))
    return from_status(error.code().name, _explained(error.details() or ""), retry_ms, reason)


def _explained(details: str) -> str:
    """Say what gRPC means where it has not asked any server."""
    if details.endswith(UNHEALTHY):
        return f"the server is starting or stopping ({details})"
    return details


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
