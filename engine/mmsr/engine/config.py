"""The settings of a server. Read once at the edge, passed whole. Does no input or output.

A new key is a new field with a `Key`; a new section is a new field of `ServeConfig`. The file, the
environment, the flags and SETTINGS.md follow from them.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from mmsr.engine.config_keys import Key
from mmsr.engine.errors import ConfigError
from mmsr.engine.split import CanaryConfig

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
RunnerName = Literal["auto", "cpu", "cuda", "tensorrt", "tensorrt-rtx"]


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """What is served, where, and how the process begins and ends."""

    repository: Annotated[
        Path, Key(about="folder of bundles, written by mmsr-export", flag="--repository")
    ]
    label: Annotated[
        str, Key(about="the label that answers where a request names none", flag="--label")
    ] = "stable"
    also: Annotated[
        tuple[str, ...], Key(about="further labels that a request may name", flag="--also")
    ] = ()
    host: Annotated[str, Key(about="address to listen on", flag="--host")] = "127.0.0.1"
    port: Annotated[int, Key(about="TCP port; 0: any free one", flag="--port")] = 50051
    admin_host: Annotated[str, Key(about="address of the Admin service's own port")] = "127.0.0.1"
    admin_port: Annotated[
        int | None, Key(about="own TCP port of the Admin service", flag="--admin-port")
    ] = None
    threads: Annotated[
        int,
        Key(about="threads of one computation", flag="--threads", default="CPUs less one"),
    ] = field(default_factory=lambda: default_threads())
    runner: Annotated[
        RunnerName,
        Key(about="what computes; auto: the fastest that is there", flag="--runner"),
    ] = "auto"
    grace_s: Annotated[
        float,
        Key(about="from SIGTERM to the end at most, whatever is in flight", flag="--grace-s"),
    ] = 30.0
    # Balancers need some seconds to look elsewhere.
    lame_duck_s: Annotated[
        float,
        Key(
            about="of that, how long requests are still answered; less when none come",
            flag="--lame-duck-s",
        ),
    ] = 5.0
    port_file: Annotated[
        Path | None,
        Key(about="file that holds the port while the server serves", flag="--port-file"),
    ] = None
    keepalive_s: Annotated[
        float | None, Key(about="a connection without traffic for so long is pinged")
    ] = None
    keepalive_timeout_s: Annotated[
        float, Key(about="a ping that is not answered in this time ends the connection")
    ] = 20.0
    min_ping_interval_s: Annotated[
        float, Key(about="a client that pings more often is disconnected")
    ] = 300.0
    max_connection_idle_s: Annotated[
        float | None, Key(about="a connection without a call for so long is closed")
    ] = None
    max_connection_age_s: Annotated[
        float | None,
        Key(about="a connection this old is closed, so that clients spread over new replicas"),
    ] = None
    max_connection_age_grace_s: Annotated[
        float, Key(about="from then on, how long its calls may still take")
    ] = 30.0

    def __post_init__(self) -> None:
        at_least(0, grace_s=self.grace_s, lame_duck_s=self.lame_duck_s)
        at_least(1, threads=self.threads)
        for name in ("port", "admin_port"):
            port = getattr(self, name)
            if port is not None:
                check_port(name, port)
        for name in CONNECTION_TIMES:
            seconds = getattr(self, name)
            if seconds is not None and not 0.001 <= seconds <= 1e6:  # milliseconds in 31 bits
                raise ConfigError(f"{name} {seconds}; expected 0.001 to 1000000")


CONNECTION_TIMES = (
    "keepalive_s",
    "keepalive_timeout_s",
    "min_ping_interval_s",
    "max_connection_idle_s",
    "max_connection_age_s",
    "max_connection_age_grace_s",
)


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How waiting requests become batches."""

    max_batch: Annotated[int, Key(about="requests computed together", flag="--max-batch")] = 64
    # 0: a batch is what is queued when the runner frees. A fixed wait of 1 ms halved the rate at
    # concurrency 1 and gained nothing above.
    max_wait_ms: Annotated[
        float,
        Key(about="how long the oldest request waits for company", flag="--max-wait-ms"),
    ] = 0.0
    queue_limit: Annotated[
        int,
        Key(about="requests that may wait; more are refused at once", flag="--queue-limit"),
    ] = 1024
    # A refusal of ours costs half an answer, one of gRPC's core next to nothing: without this limit
    # a server that is asked twice what it can do reads every call too late to answer it in time.
    pending_limit: Annotated[
        int,
        Key(
            about="calls of a method that gRPC may hold unread; more are ended with CANCELLED",
            flag="--pending-limit",
        ),
    ] = 64
    # What all of a batch are padded to: bounds memory and time of one computation where histories
    # are long. 64 of 256 items.
    max_work: Annotated[
        int, Key(about="requests of a batch times its longest history, in items")
    ] = 16_384
    bulk_limit: Annotated[
        int, Key(about="requests of batch calls that may wait; more are refused at once")
    ] = 4096
    # What single requests wait for at most, and what is left to the batch calls.
    bulk_share: Annotated[
        float, Key(about="share of a batch that is the batch calls' while single requests come")
    ] = 0.125
    # A batch of bulk requests alone is as small as this allows. On a CPU a quarter of 64 computes
    # as many requests a second as 64 do, in a quarter of the time; a GPU wants them all.
    bulk_rate: Annotated[
        float,
        Key(about="share of the best requests/s that batches of batch calls alone must reach"),
    ] = 0.9
    # Each batch costs the runner up to a millisecond of waiting for the event loop: at 12,000 items
    # batches of 2 ms instead of 10 cost a tenth of the rate.
    bulk_ms: Annotated[
        float, Key(about="and the time up to which they are as large as they can be")
    ] = 10.0

    def __post_init__(self) -> None:
        at_least(1, max_batch=self.max_batch, queue_limit=self.queue_limit)
        at_least(1, max_work=self.max_work, bulk_limit=self.bulk_limit)
        at_least(1, pending_limit=self.pending_limit)
        at_least(0, max_wait_ms=self.max_wait_ms, bulk_ms=self.bulk_ms)
        for name in ("bulk_share", "bulk_rate"):
            share = getattr(self, name)
            at_least(0, **{name: share})
            if share > 1:
                raise ConfigError(f"{name} {share}; expected 0 to 1")

    @property
    def bulk_places(self) -> int:
        """Return how many places of a full batch are the batch calls'; at least one."""
        return max(1, round(self.bulk_share * self.max_batch))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for, at most."""

    k: Annotated[int, Key(about="items in one answer")] = 1000
    history: Annotated[int, Key(about="ids in a history")] = 10_000
    excluded: Annotated[int, Key(about="ids that must not come back")] = 10_000
    allowed: Annotated[int, Key(about="ids that alone may come back")] = 10_000
    categories: Annotated[
        int, Key(about="names of categories to include, and as many to exclude")
    ] = 1000
    candidates: Annotated[int, Key(about="ids to be scored")] = 1000
    explained: Annotated[int, Key(about="items explained at once")] = 100
    batch: Annotated[int, Key(about="requests in one call")] = 1024
    id_bytes: Annotated[
        int, Key(about="bytes of an item's id, a category's name, a user's or a stream's key")
    ] = 512
    message_bytes: Annotated[int, Key(about="bytes of a message")] = 4 << 20

    def __post_init__(self) -> None:
        at_least(1, **vars(self))


@dataclass(frozen=True, kw_only=True)
class ReloadConfig:
    """How a newer bundle takes the place of the one in use."""

    watch: Annotated[
        bool, Key(about="follow the labels of the repository", flag="--watch/--no-watch")
    ] = True
    poll_s: Annotated[float, Key(about="how often the labels are looked at")] = 1.0
    share: Annotated[
        float, Key(about="of a core's time, what opening a bundle takes while others are answered")
    ] = 0.25
    nice: Annotated[
        int, Key(about="0 to 19: by how much the trial of a bundle stands back for other processes")
    ] = 10
    limit_s: Annotated[
        float, Key(about="time for the trial of a bundle, which runs in a process of its own")
    ] = 600.0

    def __post_init__(self) -> None:
        at_least(0.01, poll_s=self.poll_s, share=self.share, limit_s=self.limit_s)
        if self.share > 1:
            raise ConfigError(f"share {self.share}; expected 0.01 to 1")
        if not 0 <= self.nice <= 19:
            raise ConfigError(f"nice {self.nice}; expected 0 to 19")


@dataclass(frozen=True, kw_only=True)
class CatalogueConfig:
    """Where items that change while the server serves are kept."""

    path: Annotated[
        Path | None,
        Key(about="SQLite file of the catalogue's changes, made if need be", flag="--catalogue"),
    ] = None
    kept_image_bytes: Annotated[
        int, Key(about="of image files that are kept for another encoder; the oldest go first")
    ] = 1 << 30
    decode_s: Annotated[float, Key(about="decoding one image file may take, in seconds")] = 20.0
    decode_bytes: Annotated[int, Key(about="memory of the process that decodes images")] = 2 << 30

    def __post_init__(self) -> None:
        at_least(0, kept_image_bytes=self.kept_image_bytes)
        at_least(0.1, decode_s=self.decode_s)
        at_least(256 << 20, decode_bytes=self.decode_bytes)


@dataclass(frozen=True, kw_only=True)
class ObserveConfig:
    """What the server tells of itself."""

    log_level: Annotated[
        LogLevel,
        Key(about="least severity that is logged", flag="--log-level"),
    ] = "INFO"
    log_format: Annotated[
        Literal["text", "json"], Key(about="how log lines are written", flag="--log-format")
    ] = "text"
    log_requests: Annotated[
        bool,
        Key(
            about="log every call, not only those that fail (never what is asked or answered)",
            flag="--log-requests/--no-log-requests",
        ),
    ] = False
    metrics_host: Annotated[
        str, Key(about="address of the Prometheus metrics", flag="--metrics-host")
    ] = "127.0.0.1"
    # Off, so that a second server on one machine starts as the first one did.
    metrics_port: Annotated[
        int | None,
        Key(about="own TCP port of GET /metrics; 0: any free one", flag="--metrics-port"),
    ] = None
    otlp_endpoint: Annotated[
        str | None,
        Key(
            about="collector of traces, http(s)://HOST:PORT (OTLP over gRPC; needs mmsr[otel])",
            flag="--otlp-endpoint",
        ),
    ] = None
    trace_ratio: Annotated[
        float,
        Key(about="share of calls traced where the caller has not decided", flag="--trace-ratio"),
    ] = 0.01
    channelz: Annotated[
        bool,
        Key(
            about="serve grpc.channelz.v1, with the scope admin",
            flag="--channelz/--no-channelz",
        ),
    ] = False

    def __post_init__(self) -> None:
        if self.metrics_port is not None:
            check_port("metrics_port", self.metrics_port)
        if not 0 <= self.trace_ratio <= 1:
            raise ConfigError(f"trace_ratio {self.trace_ratio}; expected 0 to 1")


@dataclass(frozen=True, kw_only=True)
class SecurityConfig:
    """Who may call, and what protects the way."""

    tls_cert: Annotated[
        Path | None, Key(about="certificate chain, PEM; read anew on change", flag="--tls-cert")
    ] = None
    tls_key: Annotated[
        Path | None, Key(about="its key, PEM without a password", flag="--tls-key")
    ] = None
    tls_client_ca: Annotated[
        Path | None,
        Key(about="clients must show a certificate of this authority, PEM", flag="--tls-client-ca"),
    ] = None
    tokens: Annotated[
        Path | None,
        Key(
            about="clients, scopes and token hashes, TOML (python -m mmsr.engine.tokens); read "
            "anew on change",
            flag="--tokens",
        ),
    ] = None
    insecure: Annotated[
        bool,
        Key(
            about="listen beyond loopback although something of TLS and tokens is off",
            flag="--insecure/--no-insecure",
        ),
    ] = False
    rate_limit: Annotated[
        float | None,
        Key(about="requests a second of a client that has no own rate", flag="--rate-limit"),
    ] = None
    rate_burst: Annotated[
        float | None,
        Key(
            about="requests that it may send at once after a pause",
            flag="--rate-burst",
            default="as rate_limit",
        ),
    ] = None
    connection_calls: Annotated[
        int, Key(about="calls at a time on one connection; more of them wait")
    ] = 1024
    calls: Annotated[int, Key(about="calls at a time on all connections; more are refused")] = (
        16_384
    )

    def __post_init__(self) -> None:
        at_least(1, connection_calls=self.connection_calls, calls=self.calls)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("tls_cert and tls_key belong together: give both or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ConfigError("tls_client_ca needs tls_cert and tls_key")
        if self.rate_limit is not None:
            at_least(0.001, rate_limit=self.rate_limit)
            if self.tokens is None:
                raise ConfigError("rate_limit needs tokens: clients are told apart by them")
        if self.rate_burst is not None:
            at_least(1, rate_burst=self.rate_burst)
            if self.rate_limit is None:
                raise ConfigError("rate_burst needs rate_limit")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """One server."""

    server: ServerConfig
    batch: BatchConfig = field(default_factory=BatchConfig)
    limits: Limits = field(default_factory=Limits)
    reload: ReloadConfig = field(default_factory=ReloadConfig)
    canary: CanaryConfig = field(default_factory=CanaryConfig)
    catalogue: CatalogueConfig = field(default_factory=CatalogueConfig)
    observe: ObserveConfig = field(default_factory=ObserveConfig)
    security: SecurityConfig = field(default_factory=SecurityConfig)

    def __post_init__(self) -> None:
        if self.canary.label == self.server.label:
            raise ConfigError(f"canary {self.canary.label!r} is the default label; name another")

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels that are served, the default one first, each once."""
        canary = () if self.canary.label is None else (self.canary.label,)
        return tuple(dict.fromkeys((self.server.label, *self.server.also, *canary)))


def default_threads() -> int:
    """Return `threads_for` the CPUs that this process may use."""
    return threads_for(len(os.sched_getaffinity(0)))


def threads_for(cpus: int) -> int:
    """Return all CPUs less one, which is left to gRPC; at least 1."""
    return max(1, cpus - 1)


def check_port(name: str, port: int) -> None:
    """Raise `ConfigError` unless `port` is a TCP port, or 0."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"{name} {port}; expected 0 to 65535")


def at_least(least: float, **settings: float) -> None:
    """Raise `ConfigError` for the first setting that is less, or no number at all."""
    for name, value in settings.items():
        if not value >= least:  # also refuses NaN
            raise ConfigError(f"{name} {value}; expected at least {least:g}")
